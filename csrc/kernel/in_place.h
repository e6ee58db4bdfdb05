// Products with K and V where they lie: for few rows, whose time is that of reading K and V once.
//
// Memory is the limit, so it is asked all the time: while scores are made, for V's rows of the same keys; while values are
// summed, for K's rows of the next block and, from the second cache, for the next strip. Scores: each row of K is
// multiplied with all queries while it is in registers. Values: a strip of features for all queries stays in registers
// over the whole block. Eight sums in flight hide the latency of additions. Every element of V reaches a sum, be its
// weight 0 or not: callers give blocks that are kept whole.
#pragma once

#include "gemm.h"
#include "places.h"

namespace qkv::QKV_TARGET {

constexpr int kLineBytes = 64;
constexpr int64_t kFewKeys = 64;  // of a block: K and V of them fit the second cache beside those that are asked for

QKV_INLINE void ask_for(const void* from, int64_t bytes) {
    for (int64_t n = 0; n < bytes; n += kLineBytes) __builtin_prefetch(static_cast<const char*>(from) + n, 0, 2);
}

// `Rows` queries against `Keys` keys at once, Rows * Keys sums: a whole vector of them.
template <class T, class E, int Rows, int Keys>
QKV_INLINE void few_scores(const T* q, int64_t d, const E* const (&key)[Keys], int64_t step, T (&out)[Rows * Keys]) {
    constexpr int W = Lanes<T>::count;
    static_assert(Rows * Keys == W);
    Vec<T> acc[W] = {};
    int64_t f = 0;
    if (step == 1) {
        for (; f + W <= d; f += W) {
            Vec<T> right[Keys];
#pragma GCC unroll 16
            for (int n = 0; n < Keys; ++n) right[n] = Read<T, E>::from(key[n] + f);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                Vec<T> left = load<T>(q + r * d + f);
                if constexpr (Keys > 1) hold(left);
#pragma GCC unroll 16
                for (int n = 0; n < Keys; ++n) acc[r * Keys + n] += left * right[n];
            }
        }
    }
    store<T>(out, sums_of<T>(acc));
    for (; f < d; ++f) {
        for (int n = 0; n < Keys; ++n) {
            const T right = static_cast<T>(widened(key[n][f * step]));
            for (int r = 0; r < Rows; ++r) out[r * Keys + n] += q[r * d + f] * right;
        }
    }
}

template <class T, class E, int Rows>
static void rows_scores(const T* q, int rows, int64_t d, Line<const E> key_at, Line<const E> value_at, int64_t count,
                        int64_t step, int64_t value_bytes, T* s, int64_t stride) {
    constexpr int Keys = Lanes<T>::count / Rows;
    for (int64_t n = 0; n < count; n += Keys) {
        const E* key[Keys];
        for (int m = 0; m < Keys; ++m) {
            const int64_t at = n + m < count ? n + m : count - 1;
            key[m] = key_at(at);
            ask_for(value_at(at), value_bytes);
        }
        T out[Rows * Keys];
        few_scores<T, E, Rows, Keys>(q, d, key, step, out);
        for (int r = 0; r < rows; ++r)
            for (int m = 0; m < Keys; ++m)
                if (Keys == 1 || n + m < count) s[r * stride + n + m] = out[r * Keys + m];
    }
}

// Scores of up to 8 rows; q has room for a multiple of 8 rows.
template <class T, class E>
static void scores_in_place(const T* q, int rows, int64_t d, Line<const E> key_at, Line<const E> value_at, int64_t count,
                            int64_t step, int64_t value_size, T* s, int64_t stride) {
    constexpr int W = Lanes<T>::count, Most = W < 16 && W > 4 ? 4 : W < 8 ? W : 8;  // sums and operands fill the registers
    int64_t bytes = value_size * static_cast<int64_t>(sizeof(E));
    for (int row = 0; row < rows; row += Most, bytes = 0) {
        const int left = rows - row < Most ? rows - row : Most;
        const T* from = q + row * d;
        T* to = s + row * stride;
        if (left == 1)
            rows_scores<T, E, 1>(from, left, d, key_at, value_at, count, step, bytes, to, stride);
        else if (left == 2)
            rows_scores<T, E, 2>(from, left, d, key_at, value_at, count, step, bytes, to, stride);
        else if (left <= 4)
            rows_scores<T, E, (Most < 4 ? Most : 4)>(from, left, d, key_at, value_at, count, step, bytes, to, stride);
        else
            rows_scores<T, E, Most>(from, left, d, key_at, value_at, count, step, bytes, to, stride);
    }
}

// sums[r] = factor[r] sums[r] + p[r] V over a strip of `Vectors` vectors.
template <class T, class E, int Rows, int Vectors>
QKV_INLINE void few_values(const T* p, int64_t p_row, const T* factor, Line<const E> value_at, int64_t count, int64_t f,
                           T* sums, int64_t row, const char* ahead) {
    constexpr int W = Lanes<T>::count;
    Vec<T> acc[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int n = 0; n < Vectors; ++n) acc[r][n] = load<T>(sums + r * row + f + n * W) * splat<T>(factor[r]);
    for (int64_t k = 0; k < count; ++k) {
        const E* from = value_at(k) + f;
        __builtin_prefetch(from + Vectors * W);
        __builtin_prefetch(ahead + k * kLineBytes, 0, 2);
        Vec<T> right[Vectors];
#pragma GCC unroll 16
        for (int n = 0; n < Vectors; ++n) right[n] = Read<T, E>::from(from + n * W);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            const Vec<T> left = splat<T>(p[r * p_row + k]);
#pragma GCC unroll 16
            for (int n = 0; n < Vectors; ++n) acc[r][n] += left * right[n];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int n = 0; n < Vectors; ++n) store<T>(sums + r * row + f + n * W, acc[r][n]);
}

template <class T, class E, int Rows>
static void rows_values(const T* p, int64_t p_row, const T* factor, Line<const E> value_at, int64_t count, int64_t size,
                        int64_t step, T* sums, int64_t row, const char* ahead) {
    constexpr int W = Lanes<T>::count, Vectors = 8 / Rows > 0 ? 8 / Rows : 1;
    int64_t f = 0;
    if (step == 1) {
        for (; f + Vectors * W <= size; f += Vectors * W, ahead += count * kLineBytes)
            few_values<T, E, Rows, Vectors>(p, p_row, factor, value_at, count, f, sums, row, ahead);
        for (; f + W <= size; f += W) few_values<T, E, Rows, 1>(p, p_row, factor, value_at, count, f, sums, row, ahead);
    }
    for (; f < size; ++f) {
        for (int r = 0; r < Rows; ++r) {
            T sum = sums[r * row + f] * factor[r];
            for (int64_t k = 0; k < count; ++k) sum += p[r * p_row + k] * static_cast<T>(widened(value_at(k)[f * step]));
            sums[r * row + f] = sum;
        }
    }
}

// Weighted sums of up to 8 rows; p, factor and sums have room for 8 rows. `next` is where K goes on after this block: any
// address may be asked for, and none is read.
template <class T, class E>
static void values_in_place(const T* p, int64_t p_row, const T* factor, int rows, Line<const E> value_at, int64_t count,
                            int64_t size, int64_t step, T* sums, int64_t row, const void* next) {
    const auto* ahead = static_cast<const char*>(next);
    if (rows == 1)
        rows_values<T, E, 1>(p, p_row, factor, value_at, count, size, step, sums, row, ahead);
    else if (rows == 2)
        rows_values<T, E, 2>(p, p_row, factor, value_at, count, size, step, sums, row, ahead);
    else if (rows <= 4)
        rows_values<T, E, 4>(p, p_row, factor, value_at, count, size, step, sums, row, ahead);
    else
        rows_values<T, E, 8>(p, p_row, factor, value_at, count, size, step, sums, row, ahead);
}

}  // namespace qkv::QKV_TARGET
