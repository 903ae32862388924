// Runs all tests, or those whose name contains the first argument.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>

#include "base/testing.h"
#include "base/thread_pool.h"

int main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  static std::string running;
  // A probe or a wait without end must fail, not hang.
  std::signal(SIGALRM, [](int) {
    std::fprintf(stderr, "TOO SLOW %s\n", running.c_str());
    _exit(1);
  });
  int passed = 0, failed = 0;
  for (const recis::testing::Test& test : recis::testing::Tests()) {
    if (test.name.find(wanted) == std::string::npos) continue;
    running = test.name;
    alarm(300);
    recis::SetThreadCount(1);
    std::string failure;
    try {
      test.body();
    } catch (const recis::testing::Failure& thrown) {
      failure = thrown.text;
    } catch (const std::exception& thrown) {
      failure = thrown.what();
    }
    ++(failure.empty() ? passed : failed);
    if (failure.empty()) continue;
    std::fprintf(stderr, "FAILED %s\n  %s\n", running.c_str(), failure.c_str());
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
