// Bytes read as decisions: what a fuzzer feeds becomes sizes, choices and numbers, always within bounds.
//
// An input that ends goes on with zeros, so that every input is a case and shorter ones are simpler cases.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace qkv::test {

class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    std::uint8_t byte() {
        if (at_ < size_) return data_[at_++];
        return 0;
    }
    std::uint64_t word() {
        std::uint64_t out = 0;
        for (int n = 0; n < 8; ++n) out = out << 8 | byte();
        return out;
    }
    // From low to high, both included.
    std::int64_t range(std::int64_t low, std::int64_t high) {
        const auto span = static_cast<std::uint64_t>(high - low) + 1;
        std::uint64_t drawn = byte();
        for (std::uint64_t reach = 255; reach < span - 1; reach = reach << 8 | 255) drawn = drawn << 8 | byte();
        return low + static_cast<std::int64_t>(drawn % span);
    }
    bool one_in(int count) { return byte() % count == count - 1; }

  private:
    const std::uint8_t* data_;
    std::size_t size_, at_ = 0;
};

// Numbers that need not be decided one by one (SplitMix64).
class Numbers {
  public:
    explicit Numbers(std::uint64_t seed) : state_(seed) {}

    std::uint64_t next() {
        std::uint64_t x = state_ += 0x9E3779B97F4A7C15u;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
        return x ^ (x >> 31);
    }
    // Evenly from -1 to 1.
    double real() { return static_cast<double>(next() >> 11) * 0x1p-52 - 1.0; }

  private:
    std::uint64_t state_;
};

// What a case promises and does not hold ends the process, as a sanitizer's finding does.
inline void demand(bool holds, const char* what, const char* file, int line) {
    if (holds) return;
    std::fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    std::abort();
}

}  // namespace qkv::test

#define DEMAND(condition) ::qkv::test::demand((condition), #condition, __FILE__, __LINE__)
