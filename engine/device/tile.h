// A tile: 1 to 32 lanes that do one item together, such as looking through one bucket.
//
// Every device algorithm is a pass: a functor body(tile, item) that an executor calls once for
// each item. Its code is written from the tile's point of view. What the lanes do apart, and what
// touches memory that changes, stands in a function of the lane, given to the tile:
//
//   tile.Each(f)        calls f(lane) for every lane
//   tile.Map(f)         f(lane) of every lane, kept: a lane's own value, at(lane)
//   tile.Any(f)         whether f(lane) holds for one
//   tile.First(f)       the first lane for which it holds; kLanes if there is none
//   tile.From(lane, f)  f() as this lane alone computes it
//   tile.Fold(f)        the sum of f(lane), folded in halves: lane i takes that of i + kLanes / 2,
//                       then of i + kLanes / 4, and so on
//
// On a GPU each lane is a thread, and each runs the code between these too: with the same values,
// so that all take the same way. LoopTile is the same on the host, where a lane is a turn of a
// loop.
//
// Invariants that bodies keep:
//  (1) Between the functions of a lane nothing is written, and nothing is read that another item
//      or lane may write: lanes could see different values. They look once, with Map or From.
//  (2) No lane reads what another lane of its tile has written in the same pass.
#pragma once

#include "base/host_device.h"

namespace recis {

template <int kSize>
class LoopTile {
 public:
  static constexpr int kLanes = kSize;

  template <class T>
  class PerLane {
   public:
    T& at(int lane) { return values_[lane]; }
    const T& at(int lane) const { return values_[lane]; }

   private:
    T values_[kLanes];
  };

  template <class F>
  void Each(F f) const {
    for (int lane = 0; lane < kLanes; ++lane) f(lane);
  }
  template <class F>
  auto Map(F f) const {
    PerLane<decltype(f(0))> values;
    for (int lane = 0; lane < kLanes; ++lane) values.at(lane) = f(lane);
    return values;
  }
  template <class F>
  bool Any(F f) const {
    return First(f) < kLanes;
  }
  template <class F>
  int First(F f) const {
    int first = kLanes;
    for (int lane = kLanes - 1; lane >= 0; --lane) {
      if (f(lane)) first = lane;  // every lane is asked, as on a GPU
    }
    return first;
  }
  template <class F>
  auto From(int, F f) const {
    return f();
  }
  template <class F>
  auto Fold(F f) const {
    auto values = Map(f);
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) values.at(lane) += values.at(lane + half);
    }
    return values.at(0);
  }
};

}  // namespace recis
