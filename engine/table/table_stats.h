// What a table tells of itself.
#pragma once

#include <cstdint>

namespace recis {

// Counts since the table was made or found in a store. lookups = hits + misses; rows = those
// found + admits - evictions.
struct TableStats {
  int64_t rows = 0;
  int64_t lookups = 0;  // ids looked up, repeats included
  int64_t hits = 0;     // of them, those that had a row already
  int64_t misses = 0;
  int64_t admits = 0;       // distinct ids that got a row
  int64_t refusals = 0;     // distinct ids, per lookup, that a policy refused
  int64_t evictions = 0;    // rows freed
  int64_t hot_rows = 0;     // with a record in memory
  int64_t cold_rows = 0;    // without; zero unless the table is in a store
  int64_t hot_bytes = 0;    // of hot blocks, free rows included
  int64_t promotes = 0;     // rows made hot
  int64_t spills = 0;       // rows made cold
  int64_t cold_bytes = 0;   // of cold rows' records
  int64_t drops = 0;        // of them, those whose cold copy was still true
  int64_t index_bytes = 0;  // index and directory
  int64_t gradient_rows = 0;
};

}  // namespace recis
