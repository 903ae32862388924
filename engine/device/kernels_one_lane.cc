// The kernels as a device runs them, one element at a time: for tests that hold them against the
// others.
#define RECIS_ONE_LANE
#define RECIS_KERNELS kOneLaneKernels
#define RECIS_KERNELS_NAME "one_lane"
#include "device/kernels_impl.h"
