#include "probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "targets.h"

namespace qkv {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int num_trials = 8;
constexpr double trial_s = 0.01;  // long beside a thread's start, short beside what disturbs it
constexpr std::size_t page = 4096;

// Seconds from the moment when all threads may start until the last has done work(thread).
template <class Work>
double timed(int num_threads, const Work& work) {
    std::atomic<int> waiting{0};
    std::atomic<bool> started{false};
    std::vector<Clock::time_point> ends(static_cast<std::size_t>(num_threads));
    const auto run = [&](int thread) {
        waiting.fetch_add(1);
        while (!started.load()) std::this_thread::yield();
        work(thread);
        ends[static_cast<std::size_t>(thread)] = Clock::now();
    };
    std::vector<std::thread> threads;
    for (int n = 1; n < num_threads; ++n) threads.emplace_back(run, n);
    while (waiting.load() + 1 < num_threads) std::this_thread::yield();
    const auto start = Clock::now();
    started.store(true);
    run(0);
    for (std::thread& thread : threads) thread.join();
    return std::chrono::duration<double>(*std::max_element(ends.begin(), ends.end()) - start).count();
}

// The results of the loops go here, so that no compiler leaves a loop out.
std::atomic<double> sink{0.0};

struct Loop {
    double (*run)(const ProbeLoops& loops, std::int64_t rounds);
    double flops;  // in one round
};

Loop loop_of(const ProbeLoops& loops, ProbeType type) {
    switch (type) {
        case ProbeType::f64:
            return {[](const ProbeLoops& l, std::int64_t n) { return l.fma_f64(n); }, double(loops.flops_f64)};
        case ProbeType::bf16:
            return {[](const ProbeLoops& l, std::int64_t n) { return double(l.fma_bf16(n)); },
                    double(loops.flops_bf16)};
        case ProbeType::f32:
            break;
    }
    return {[](const ProbeLoops& l, std::int64_t n) { return double(l.fma_f32(n)); }, double(loops.flops_f32)};
}

// Doubles `amount` until work(amount) takes about a trial's time; then the best rate of the trials, in amounts a second.
template <class Work>
double best_rate(int num_threads, const Work& work) {
    std::int64_t amount = 1;
    double took = timed(num_threads, [&](int thread) { work(thread, amount); });
    while (took < trial_s) {
        amount *= 2;
        took = timed(num_threads, [&](int thread) { work(thread, amount); });
    }
    for (int n = 1; n < num_trials; ++n) {
        took = std::min(took, timed(num_threads, [&](int thread) { work(thread, amount); }));
    }
    return static_cast<double>(amount) / took;
}

}  // namespace

ProbeType probe_type(std::string_view name) {
    if (name == "float32") return ProbeType::f32;
    if (name == "float64") return ProbeType::f64;
    if (name == "bfloat16") return ProbeType::bf16;
    throw std::invalid_argument("dtype=\"" + std::string(name) + "\" is not float32, float64 or bfloat16");
}

double probe_fma_flops(int num_threads, ProbeType type) {
    const ProbeLoops& loops = target().probe;
    const Loop loop = loop_of(loops, type);
    constexpr std::int64_t batch = 1024;
    const double rate = best_rate(num_threads, [&](int, std::int64_t amount) {
        sink.store(loop.run(loops, amount * batch), std::memory_order_relaxed);
    });
    return rate * batch * loop.flops * num_threads;
}

double probe_read_bandwidth(int num_threads, std::size_t bytes) {
    const ProbeLoops& loops = target().probe;
    const std::size_t share = bytes / static_cast<std::size_t>(num_threads) / page * page;
    const std::size_t part = std::max(share, page);  // of one thread, in bytes: whole pages, so whole groups of lines
    const auto count = static_cast<std::int64_t>(part / sizeof(float));
    const auto free = [](float* from) { ::operator delete(from, std::align_val_t{page}); };
    const std::unique_ptr<float, decltype(free)> array{
        static_cast<float*>(::operator new(part * static_cast<std::size_t>(num_threads), std::align_val_t{page})), free};
    const auto own = [&](int thread) { return array.get() + thread * count; };
    timed(num_threads, [&](int thread) { std::fill_n(own(thread), count, 1.0f); });  // its pages come to its own memory
    const double rate = best_rate(num_threads, [&](int thread, std::int64_t amount) {
        float total = 0.0f;
        for (std::int64_t n = 0; n < amount; ++n) total += loops.read(own(thread), count);
        sink.store(total, std::memory_order_relaxed);
    });
    return rate * static_cast<double>(part) * num_threads;
}

}  // namespace qkv
