#define RECIS_KERNELS kBaselineKernels
#define RECIS_KERNELS_NAME "baseline"
#include "device/kernels_impl.h"
