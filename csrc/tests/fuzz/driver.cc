// Runs a fuzz target where there is no libFuzzer: `NAME_fuzz [count [first]]` tries inputs first, first + 1, ...
//
// Input n is the same on every machine; a failure names it, and `NAME_fuzz 1 n` repeats it.
#include <csignal>
#include <cstdlib>
#include <vector>

#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*)());

namespace {

volatile unsigned long long current = 0;

void name_input() { std::fprintf(stderr, "input %llu; repeat it with arguments 1 %llu\n", current, current); }

void on_signal(int signal) {
    name_input();
    std::signal(signal, SIG_DFL);
    std::raise(signal);
}

}  // namespace

int main(int argc, char** argv) {
    const unsigned long long count = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 200;
    const unsigned long long first = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(&name_input);
    for (int signal : {SIGABRT, SIGILL, SIGFPE}) std::signal(signal, &on_signal);
    for (unsigned long long n = first; n < first + count; ++n) {
        current = n;
        qkv::test::Numbers numbers(n);
        std::vector<std::uint8_t> bytes(64 + numbers.next() % 1024);
        for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(numbers.next());
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%llu inputs\n", count);
    return 0;
}
