// Admission: which new ids get a row.
//
// Threads: any method from any thread; lookups call Admit() under their table's lock.
#pragma once

#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "device/memory.h"
#include "table/numbering.h"

namespace recis {

class AdmissionPolicy {
 public:
  virtual ~AdmissionPolicy() = default;
  // admit[i]: whether ids[i] gets a row now. The ids are distinct and have none;
  // counts[i] is how often ids[i] occurs in this lookup.
  virtual void Admit(const int64_t* ids, const uint32_t* counts, int64_t n, bool* admit) = 0;
};

class AdmitNone : public AdmissionPolicy {
 public:
  void Admit(const int64_t*, const uint32_t*, int64_t n, bool* admit) override;
};

// Admits an id at its `min_frequency`-th sighting, repeats in a lookup counted.
//
// Sightings of ids without a row are kept exactly in two generations of at most half of
// `max_candidates` ids each. When the young one is full it becomes the old one, and
// what was old and not seen since is forgotten: memory is bounded, and an id is forgotten
// only after that many other new ids came by without it.
class FrequencyAdmission : public AdmissionPolicy {
 public:
  FrequencyAdmission(int64_t min_frequency, int64_t max_candidates);

  void Admit(const int64_t* ids, const uint32_t* counts, int64_t n, bool* admit) override;
  // Sightings so far; 0 once admitted or forgotten.
  int64_t Sightings(int64_t id) const;
  void Clear();

  // Candidates with their counts, at most `capacity`, the old generation first; returns
  // how many. Restore() in that order gives the same sightings; once candidates are
  // forgotten, which go first may differ.
  int64_t size() const;
  int64_t Dump(int64_t capacity, int64_t* ids, int64_t* counts) const;
  void Restore(const int64_t* ids, const int64_t* counts, int64_t n);

 private:
  struct Generation {
    Numbering numbers;
    std::vector<int64_t> counts;  // by number; 0: admitted meanwhile, or moved to the young
    int64_t Take(int64_t id);     // its count, which becomes 0
    void Set(int64_t id, int64_t count);
  };
  void Keep(int64_t id, int64_t count);

  const int64_t min_frequency_;
  const int64_t generation_size_;
  mutable std::mutex mutex_;
  Generation young_, old_;  // GUARDED_BY(mutex_)
};

}  // namespace recis
