// A row: the stable number of an id in its table.
#pragma once

#include <cstdint>

namespace recis {

using Row = uint32_t;
inline constexpr Row kNoRow = 0xffffffffu;

}  // namespace recis
