// Dropped weights from a counter: whether a pair is dropped depends on the seed and the pair's place alone.
//
// The hash is SplitMix64's finaliser (Steele et al. 2014) over the flat index of the pair among shared, row and key
// coordinates, the same as in the strategies that torch runs, so that every strategy drops the same pairs.
#pragma once

#include "places.h"

namespace qkv::QKV_TARGET {

QKV_INLINE uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

// The number of a row's first pair.
static inline uint64_t first_pair(const Problem& problem, int64_t shared, int64_t row, int64_t key) {
    const auto rows = static_cast<uint64_t>(problem.rows.total()), keys = static_cast<uint64_t>(problem.keys.total());
    const auto place = static_cast<uint64_t>(offset_of(problem.rows, problem.pair_row, row));
    return (static_cast<uint64_t>(shared) * rows + place) * keys + static_cast<uint64_t>(key);
}

// 1 / (1 - dropout) where the pair survives, else 0.
template <class T> struct Survival {
    uint64_t start, threshold;
    T factor;

    Survival(const Problem& problem, int64_t shared, int64_t row, int64_t key)
        : start(first_pair(problem, shared, row, key) * 0x9E3779B97F4A7C15u + problem.seed * 0xD1342543DE82EF95u +
                0x2545F4914F6CDD1Du),
          threshold(static_cast<uint64_t>(problem.dropout * (1 << 24))), factor(static_cast<T>(1.0 / (1.0 - problem.dropout))) {}

    QKV_INLINE T operator()(int64_t n) const {
        return (mixed(start + static_cast<uint64_t>(n) * 0x9E3779B97F4A7C15u) >> 40) >= threshold ? factor : T(0);
    }
};

template <class T>
static void drop_row(const Problem& problem, int64_t shared, int64_t row, int64_t key, int64_t count, T* weights) {
    const Survival<T> survival(problem, shared, row, key);
    for (int64_t n = 0; n < count; ++n) weights[n] *= survival(n);
}

}  // namespace qkv::QKV_TARGET
