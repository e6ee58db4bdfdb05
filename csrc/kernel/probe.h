// The fastest loops of one target: multiply-adds from registers, and reading. What they compute is of no use; how long
// they take says what no kernel can beat.
#pragma once

#include <stdint.h>

#include "vec.h"

namespace qkv::QKV_TARGET {

// Sums that do not wait for each other: as many as registers hold beside the two factors, since what is in flight at
// once, and not a single multiply-add's latency, must limit. Members and no array: an array would be kept in memory.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kChains = 24;  // of 32 registers
#else
constexpr int kChains = 12 * 8 / (QKV_LANES > 8 ? QKV_LANES : 8);  // of 16, that `wide` needs in pairs
#endif

template <class V, int N>
struct Chains : Chains<V, N - 1> {
    V sum = V{} + 0.1f * N;

    QKV_INLINE void step(V factor, V addend) {
        sum = sum * factor + addend;
        Chains<V, N - 1>::step(factor, addend);
    }
    QKV_INLINE V total() const { return sum + Chains<V, N - 1>::total(); }
};
template <class V>
struct Chains<V, 0> {
    QKV_INLINE void step(V, V) {}
    QKV_INLINE V total() const { return V{}; }
};

// `rounds` multiply-adds on each chain; the sums stay near 1, so that no round meets a slow number.
template <class T> T probe_fma(int64_t rounds) {
    const Vec<T> factor = Vec<T>{} + T(0.999), addend = Vec<T>{} + T(0.001);
    Chains<Vec<T>, kChains> chains;
    for (int64_t n = 0; n < rounds; ++n) chains.step(factor, addend);
    return sum_lanes<T>(chains.total());
}
template <class T> constexpr int kProbeFlops = 2 * kChains * Lanes<T>::count;  // in one round

#if defined(__AVX512BF16__)
template <int N>
struct PairChains : PairChains<N - 1> {
    __m512 sum = _mm512_setzero_ps();

    QKV_INLINE void step(__m512bh a, __m512bh b) {
        sum = _mm512_dpbf16_ps(sum, a, b);
        PairChains<N - 1>::step(a, b);
    }
    QKV_INLINE vf total() const { return (vf)sum + PairChains<N - 1>::total(); }
};
template <>
struct PairChains<0> {
    QKV_INLINE void step(__m512bh, __m512bh) {}
    QKV_INLINE vf total() const { return vf{}; }
};
static inline float probe_bf16(int64_t rounds) {
    const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3f), _mm512_set1_ps(1e-3f)), b = a;
    PairChains<kChains> chains;
    for (int64_t n = 0; n < rounds; ++n) chains.step(a, b);
    return sum_lanes<float>(chains.total());
}
constexpr int kProbeFlopsBf16 = 4 * kChains * kLanes;
#else
// Without an instruction for pairs of bfloat16 they are widened and multiplied as floats.
static inline float probe_bf16(int64_t rounds) { return probe_fma<float>(rounds); }
constexpr int kProbeFlopsBf16 = kProbeFlops<float>;
#endif

// Reads `count` floats (a multiple of kReadGroup, aligned to cache lines) at four places in turn: several streams keep
// more lines on their way than one.
constexpr int64_t kReadGroup = 64;

static inline float probe_read(const float* from, int64_t count) {
    constexpr int line = 16;
    const int64_t quarter = count / kReadGroup * line;
    const float *a = from, *b = a + quarter, *c = b + quarter, *d = c + quarter;
    vf sum_a{}, sum_b{}, sum_c{}, sum_d{};
    for (int64_t n = 0; n < quarter; n += line) {
#pragma GCC unroll 4
        for (int m = 0; m < line; m += kLanes) {
            sum_a += load(a + n + m);
            sum_b += load(b + n + m);
            sum_c += load(c + n + m);
            sum_d += load(d + n + m);
        }
    }
    return sum_lanes<float>((sum_a + sum_b) + (sum_c + sum_d));
}

}  // namespace qkv::QKV_TARGET
