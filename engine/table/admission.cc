#include "table/admission.h"

#include <algorithm>

namespace recis {

void AdmitNone::Admit(const int64_t*, const uint32_t*, int64_t n, bool* admit) {
  std::fill_n(admit, n, false);
}

FrequencyAdmission::FrequencyAdmission(int64_t min_frequency, int64_t max_candidates)
    : min_frequency_(min_frequency), generation_size_(std::max<int64_t>(max_candidates / 2, 1)) {}

int64_t FrequencyAdmission::Generation::Take(int64_t id) {
  const uint32_t number = numbers.Find(id);
  return number == Numbering::kUnseen ? 0 : std::exchange(counts[number], 0);
}

void FrequencyAdmission::Generation::Set(int64_t id, int64_t count) {
  const uint32_t number = numbers.Number(id);
  if (number == counts.size()) counts.push_back(0);
  counts[number] = count;
}

void FrequencyAdmission::Keep(int64_t id, int64_t count) {
  if (young_.numbers.size() == generation_size_ && young_.numbers.Find(id) == Numbering::kUnseen) {
    old_ = std::exchange(young_, Generation());
  }
  young_.Set(id, count);
}

void FrequencyAdmission::Admit(const int64_t* ids, const uint32_t* counts, int64_t n, bool* admit) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t seen = young_.Take(ids[i]) + old_.Take(ids[i]) + counts[i];
    admit[i] = seen >= min_frequency_;
    if (!admit[i]) Keep(ids[i], seen);
  }
}

int64_t FrequencyAdmission::Sightings(int64_t id) const {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const Generation* generation : {&young_, &old_}) {
    const uint32_t number = generation->numbers.Find(id);
    if (number != Numbering::kUnseen && generation->counts[number] != 0) {
      return generation->counts[number];
    }
  }
  return 0;
}

void FrequencyAdmission::Clear() { Restore(nullptr, nullptr, 0); }

int64_t FrequencyAdmission::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t live = 0;
  for (const Generation* generation : {&old_, &young_}) {
    live += generation->numbers.size() -
            std::count(generation->counts.begin(), generation->counts.end(), 0);
  }
  return live;
}

int64_t FrequencyAdmission::Dump(int64_t capacity, int64_t* ids, int64_t* counts) const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t n = 0;
  for (const Generation* generation : {&old_, &young_}) {
    for (int64_t i = 0; i < generation->numbers.size() && n < capacity; ++i) {
      if (generation->counts[i] == 0) continue;
      ids[n] = generation->numbers.ids()[i];
      counts[n++] = generation->counts[i];
    }
  }
  return n;
}

void FrequencyAdmission::Restore(const int64_t* ids, const int64_t* counts, int64_t n) {
  std::lock_guard<std::mutex> lock(mutex_);
  young_ = Generation();
  old_ = Generation();
  for (int64_t i = 0; i < n; ++i) Keep(ids[i], counts[i]);
}

}  // namespace recis
