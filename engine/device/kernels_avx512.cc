#define RECIS_KERNELS kAvx512Kernels
#define RECIS_KERNELS_NAME "avx512"
#include "device/kernels_impl.h"
