// The records of some rows of a table on a device, and the way between the two.
//
// A record that is cached is true on the device, and in the table once it was written back. It goes
// to the device whole, takes its gradient and steps there, and goes back whole.
//
// Which rows are cached the host decides and knows: it reads what each batch found there anyway,
// since a miss must be answered by the table, and so needs no passes of its own.
//
// Threads: one at a time, as its device. It takes the table's lock.
// Invariants:
//  (1) Frames of rows() are the live rows of table(), and belong to the same ids.
//  (2) The pending gradient of a row that is cached is on the device, all of it; that of any other
//      row is in the table.
//  (3) A method that returns an error has lost nothing: at most, rows are cached no more, or their
//      records have been written back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/status.h"
#include "device/device_memory.h"
#include "device/staging.h"
#include "table/cached_rows.h"
#include "table/device_table.h"
#include "table/row_changes.h"
#include "table/snapshot_source.h"
#include "table/table.h"

namespace recis {

struct CacheStats {
  int64_t rows = 0;         // cached
  int64_t bytes = 0;        // of their records at most
  int64_t promotes = 0;     // rows that became cached
  int64_t spills = 0;       // rows that are no more
  int64_t drops = 0;        // of them, those that needed no write
  int64_t write_backs = 0;  // records given to the table
};

class DeviceCache {
 public:
  // `bytes`: of records on the device; one block at least.
  DeviceCache(std::shared_ptr<Table> table, std::shared_ptr<Device> device, int64_t bytes)
      : host_(std::move(table)), device_(std::move(device)), bytes_(bytes) {}

  // What the device must have for records of these slots.
  struct Frames {
    std::shared_ptr<DeviceTable> table;
    std::unique_ptr<Staging> staging;
    Schema schema;
    int64_t capacity;
  };
  Result<Frames> FramesFor(const std::vector<Slot>& slots) const;
  // Goes on with these, without any row. REQUIRES: what the old ones have is of no use.
  void Use(Frames frames);

  DeviceTable& table() const { return *frames_.table; }
  const CachedRows& rows() const { return rows_; }
  const Schema& schema() const { return frames_.schema; }
  Staging& staging() const { return *frames_.staging; }
  const Device& device() const { return *device_; }
  // Changes whenever a row gets or loses a frame.
  uint64_t moves() const { return moves_; }

  void Touch(Frame frame) { rows_.Touch(frame); }
  // Caches the first of these distinct rows, which are not, for as many as there is room. Others
  // are spilled for them, but none of `kept`. Rows with a pending gradient are not moved.
  Status Promote(std::vector<RowOfId> wanted, const std::vector<Frame>& kept);
  // Gives the table the records that are dirty. They stay cached.
  Status WriteBack(const std::vector<Frame>& frames);
  // Gives the table all there is of these: they are cached no more.
  Status Drop(const std::vector<Frame>& frames);

  // Its record was changed on the device.
  void MarkDirty(Frame frame) { rows_.MarkDirty(frame); }
  // They have taken a gradient, on the device or in the table: they stay where they are.
  void MarkPending(Frame frame) { rows_.MarkPending(frame); }
  void MarkPendingInTable(Row row) { pending_in_table_.Add(row); }
  Status Step(const RuleParams& params, const std::vector<int>& states);
  Status ClearGradient();
  // By frame ascending, divided by `divisor`, (n, dim) in accumulators.
  struct Gradient {
    std::vector<int64_t> frames;
    std::vector<std::byte> sums;
  };
  Result<Gradient> ReadGradient(double divisor) const;

  CacheStats Stats() const;

 private:
  int64_t PieceRows() const { return staging().Items(schema().record_bytes() + 8); }
  Status PromotePiece(const RowOfId* wanted, int64_t n);
  Status WriteBackPiece(const Frame* frames, int64_t n);
  Status DropPiece(const Frame* frames, int64_t n, const Gradient& gradient);

  const std::shared_ptr<Table> host_;
  const std::shared_ptr<Device> device_;
  const int64_t bytes_;
  Frames frames_;
  CachedRows rows_{0};
  RowSet pending_in_table_;  // and perhaps others
  uint64_t moves_ = 1;
  CacheStats stats_;
};

}  // namespace recis
