// The smallest test helper: counts, prints what failed and where, and keeps going.
#pragma once

#include <cstdio>

namespace qkv::test {

inline int num_checks = 0;
inline int num_failures = 0;

inline void check(bool holds, const char* text, const char* file, int line) {
    ++num_checks;
    if (holds) return;
    ++num_failures;
    std::printf("%s:%d: does not hold: %s\n", file, line, text);
}

inline int report(const char* name) {
    std::printf("%s: %d checks, %d failed\n", name, num_checks, num_failures);
    return num_failures == 0 && num_checks > 0 ? 0 : 1;
}

}  // namespace qkv::test

#define CHECK(condition) ::qkv::test::check((condition), #condition, __FILE__, __LINE__)
