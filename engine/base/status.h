// Status and Result: how engine functions report the world's failures.
//
// A Status is ok or carries a code and a message that names what was found, what
// was expected and what to do next. CHECK is for our own mistakes and aborts. Only
// bind/ turns a Status into a Python exception.
//
// Threads: values; share nothing.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

namespace recis {

enum class Code {
  kOk,
  kInvalidArgument,  // ValueError: the caller passed something unusable
  kOutOfRange,       // IndexError: a row, slot or position that is not there
  kNotFound,         // KeyError: a name that is not there
  kOutOfMemory,      // MemoryError: the system refused memory
  kFull,             // OverflowError: a limit of the format, such as rows per table
  kIo,               // OSError with the system's errno: disk full, I/O error, no permission
  kCorrupt,          // RuntimeError: bytes on disk are not what was written
  kUnavailable,      // RuntimeError: not from here, such as a store that someone else holds
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message, int error_number = 0)
      : code_(code), error_number_(error_number), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  int error_number() const { return error_number_; }  // of kIo: the errno, else 0
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  int error_number_ = 0;
  std::string message_;
};

inline Status InvalidArgument(std::string message) {
  return {Code::kInvalidArgument, std::move(message)};
}
inline Status OutOfRange(std::string message) { return {Code::kOutOfRange, std::move(message)}; }
inline Status NotFound(std::string message) { return {Code::kNotFound, std::move(message)}; }
inline Status OutOfMemory(std::string message) { return {Code::kOutOfMemory, std::move(message)}; }
inline Status Full(std::string message) { return {Code::kFull, std::move(message)}; }
inline Status Io(int error_number, std::string message) {
  return {Code::kIo, std::move(message), error_number};
}
inline Status Corrupt(std::string message) { return {Code::kCorrupt, std::move(message)}; }
inline Status Unavailable(std::string message) { return {Code::kUnavailable, std::move(message)}; }

template <class T>
class [[nodiscard]] Result {
 public:
  Result(Status status) : status_(std::move(status)) {}  // NOLINT: implicit by design
  Result(T value) : value_(std::move(value)) {}          // NOLINT: implicit by design

  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }
  T& value() { return *value_; }  // REQUIRES: ok()

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace recis

#define RECIS_RETURN_IF_ERROR(expression)                        \
  do {                                                           \
    if (::recis::Status status_ = (expression); !status_.ok()) { \
      return status_;                                            \
    }                                                            \
  } while (false)

#define RECIS_CHECK(condition)                                                         \
  do {                                                                                 \
    if (!(condition)) [[unlikely]] {                                                   \
      std::fprintf(stderr, "recis: %s:%d: broken invariant: %s\n", __FILE__, __LINE__, \
                   #condition);                                                        \
      std::abort();                                                                    \
    }                                                                                  \
  } while (false)
