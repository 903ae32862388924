// Copies records to consecutive rows of an output. See kernels_impl.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/vector_impl.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace recis {
namespace {

RECIS_INLINE void CopyRow(const std::byte* from, std::byte* to, size_t bytes) {
  size_t i = 0;
  for (; i + 64 <= bytes; i += 64) __builtin_memcpy(to + i, from + i, 64);
  if (bytes & 32) __builtin_memcpy(to + i, from + i, 32), i += 32;
  if (bytes & 16) __builtin_memcpy(to + i, from + i, 16), i += 16;
  if (bytes & 8) __builtin_memcpy(to + i, from + i, 8), i += 8;
  if (bytes & 4) __builtin_memcpy(to + i, from + i, 4), i += 4;
  if (bytes & 2) __builtin_memcpy(to + i, from + i, 2), i += 2;
  if (bytes & 1) to[i] = from[i];
}

#if defined(__SSE2__)
RECIS_INLINE void StreamRow(const std::byte* from, std::byte* to, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#else
    for (int part = 0; part < 64; part += 16) {
      __m128i piece;
      __builtin_memcpy(&piece, from + i + part, 16);
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + part), piece);
    }
#endif
  }
}
#endif

void Gather(const std::byte* const* sources, int64_t n, size_t bytes, std::byte* out,
            [[maybe_unused]] bool stream) {
#if defined(__SSE2__)
  if (stream && bytes % 64 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0) {
    for (int64_t i = 0; i < n; ++i, out += bytes) {
      if (sources[i] != nullptr) {
        StreamRow(sources[i], out, bytes);
      } else {
        __builtin_memset(out, 0, bytes);
      }
    }
    _mm_sfence();
    return;
  }
#endif
  for (int64_t i = 0; i < n; ++i, out += bytes) {
    if (sources[i] != nullptr) {
      CopyRow(sources[i], out, bytes);
    } else {
      __builtin_memset(out, 0, bytes);
    }
  }
}

}  // namespace
}  // namespace recis
