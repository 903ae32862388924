// Every kernel, compiled once for each instruction set.
//
// A file that includes this defines RECIS_KERNELS (the table to fill in) and
// RECIS_KERNELS_NAME. Everything in the headers named *_impl.h is in an unnamed namespace
// and calls nothing from the standard library: an inline function shared between files
// that are compiled for different instruction sets could end up, by the linker's choice,
// with instructions this processor lacks.
#pragma once

#include "device/draw_impl.h"
#include "device/gather_impl.h"
#include "device/kernels.h"
#include "device/segment_sum_impl.h"
#include "device/update_impl.h"

namespace recis {

extern const Kernels RECIS_KERNELS = {RECIS_KERNELS_NAME, Gather, SegmentSum, Draw, Update};

}  // namespace recis
