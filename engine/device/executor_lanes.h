// Runs device algorithms with one thread a lane: slow, for tests. See executor_host.h.
//
// Lanes meet at what the tile does together and nowhere else, as on a GPU. So ThreadSanitizer sees
// a lane that reads what another one writes, and a lane that takes another way than its tile ends
// the process.
#pragma once

#include <barrier>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/status.h"
#include "device/executor_host.h"

namespace recis {

// What the lanes of a tile share.
struct LanesMeeting {
  explicit LanesMeeting(int lanes) : barrier(lanes) {}

  struct Seat {
    uint64_t value;
    int64_t item;
    int kind;
  };
  std::barrier<> barrier;
  Seat seats[32];  // each written by its lane before the barrier, read by all behind it
};

template <int kSize>
class LaneTile {
 public:
  static constexpr int kLanes = kSize;

  LaneTile(LanesMeeting& meeting, int lane, int64_t item)
      : meeting_(meeting), lane_(lane), item_(item) {}

  template <class T>
  struct PerLane {
    T& at(int) { return value; }
    const T& at(int) const { return value; }
    T value;
  };

  template <class F>
  void Each(F f) const {
    f(lane_);
  }
  template <class F>
  auto Map(F f) const {
    return PerLane<decltype(f(0))>{f(lane_)};
  }
  template <class F>
  bool Any(F f) const {
    return First(f) < kLanes;
  }
  template <class F>
  int First(F f) const {
    const bool holds = f(lane_);
    return Meet(Kind::kFirst, holds, [](const LanesMeeting::Seat* seats) {
      int lane = 0;
      while (lane < kLanes && seats[lane].value == 0) ++lane;
      return lane;
    });
  }
  template <class F>
  auto From(int lane, F f) const {
    using T = decltype(f());
    return Meet(Kind::kFrom, lane == lane_ ? f() : T{},
                [lane](const LanesMeeting::Seat* seats) { return ValueOf<T>(seats[lane]); });
  }
  template <class F>
  auto Fold(F f) const {
    using T = decltype(f(0));
    return Meet(Kind::kFold, f(lane_), [](const LanesMeeting::Seat* seats) {
      T values[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) values[lane] = ValueOf<T>(seats[lane]);
      for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) values[lane] += values[lane + half];
      }
      return values[0];
    });
  }

 private:
  enum class Kind { kFirst, kFrom, kFold };

  template <class T>
  static T ValueOf(const LanesMeeting::Seat& seat) {
    T value;
    std::memcpy(&value, &seat.value, sizeof(T));
    return value;
  }

  template <class T, class Look>
  auto Meet(Kind kind, T value, Look look) const {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    LanesMeeting::Seat& seat = meeting_.seats[lane_];
    seat = {0, item_, static_cast<int>(kind)};
    std::memcpy(&seat.value, &value, sizeof(T));
    meeting_.barrier.arrive_and_wait();
    for (int lane = 0; lane < kLanes; ++lane) {
      RECIS_CHECK(meeting_.seats[lane].item == item_ && meeting_.seats[lane].kind == seat.kind);
    }
    const auto seen = look(meeting_.seats);
    meeting_.barrier.arrive_and_wait();
    return seen;
  }

  LanesMeeting& meeting_;
  const int lane_;
  const int64_t item_;
};

class LanesExecutor : public HostExecutor {
 public:
  template <int kLanes, class Body>
  void Run(int64_t n, const Body& body, Stream) {
    constexpr int64_t kTiles = 2;
    std::vector<std::unique_ptr<LanesMeeting>> meetings;
    std::vector<std::jthread> threads;
    for (int64_t first = 0; first < std::min(kTiles, n); ++first) {
      meetings.push_back(std::make_unique<LanesMeeting>(kLanes));
      for (int lane = 0; lane < kLanes; ++lane) {
        threads.emplace_back([&body, n, first, lane, &meeting = *meetings.back()] {
          for (int64_t item = first; item < n; item += kTiles) {
            body(LaneTile<kLanes>(meeting, lane, item), item);
          }
          meeting.barrier.arrive_and_drop();
        });
      }
    }
  }
};

}  // namespace recis
