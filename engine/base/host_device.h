// Marks functions that a GPU runs too, or alone, from the source the host compiles.
#pragma once

#if defined(__CUDACC__)
#define RECIS_HOST_DEVICE __host__ __device__
#define RECIS_DEVICE __device__
#else
#define RECIS_HOST_DEVICE
#define RECIS_DEVICE
#endif
