// The test harness: TEST(NameAsASentence) { ... } registers a test, EXPECT checks.
//
// A failed check ends its test. It prints file, line, the expression, both values and
// whatever else it was given, which tells one round of a loop from the next.
//
// Threads: checks throw, so they belong on the thread that runs the test.
#pragma once

#include <sstream>
#include <string>
#include <vector>

namespace recis::testing {

struct Test {
  std::string name;  // a test of x_test.cc is called x.Name
  void (*body)();
};

inline std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

inline bool Register(std::string file, const std::string& name, void (*body)()) {
  file = file.substr(file.find_last_of('/') + 1);
  Tests().push_back({file.substr(0, file.rfind("_test.cc")) + "." + name, body});
  return true;
}

struct Failure {
  std::string text;
};

template <class T>
void Print(std::ostream& out, const T& value) {
  if constexpr (requires { out << +value; }) {
    out << +value;  // promoted, so that bytes are numbers
  } else if constexpr (requires { out << value; }) {
    out << value;
  } else if constexpr (requires { value.begin(); }) {
    for (const auto& item : value) Print(out, item), out << " ";
  } else {
    out << "(no text)";
  }
}

template <class Holds, class Left, class Right, class... Rest>
void Check(Holds holds, const char* place, const Left& left, const Right& right,
           const Rest&... rest) {
  if (holds(left, right)) return;
  std::ostringstream out;
  out.precision(17);
  out << place;
  Print(out << "\n    ", left);
  Print(out << "\n    ", right);
  (Print(out << "\n    ", rest), ...);
  throw Failure{out.str()};
}

}  // namespace recis::testing

#define TEST(name)                                          \
  static void name();                                       \
  [[maybe_unused]] static const bool name##_is_registered = \
      ::recis::testing::Register(__FILE__, #name, name);    \
  static void name()

#define RECIS_TEXT(text) #text
#define RECIS_PLACE(file, line, text) file ":" RECIS_TEXT(line) ": " text
#define RECIS_EXPECT(left, operation, right, ...)                                                 \
  ::recis::testing::Check([](const auto& l, const auto& r) { return l operation r; },             \
                          RECIS_PLACE(__FILE__, __LINE__, #left " " #operation " " #right), left, \
                          right __VA_OPT__(, ) __VA_ARGS__)

#define EXPECT(condition, ...) RECIS_EXPECT(condition, ==, true __VA_OPT__(, ) __VA_ARGS__)
#define EXPECT_EQ(left, ...) RECIS_EXPECT(left, ==, __VA_ARGS__)
#define EXPECT_NE(left, ...) RECIS_EXPECT(left, !=, __VA_ARGS__)
#define EXPECT_LE(left, ...) RECIS_EXPECT(left, <=, __VA_ARGS__)
#define EXPECT_LT(left, ...) RECIS_EXPECT(left, <, __VA_ARGS__)
