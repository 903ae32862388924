#define RECIS_KERNELS kAvx2Kernels
#define RECIS_KERNELS_NAME "avx2"
#include "device/kernels_impl.h"
