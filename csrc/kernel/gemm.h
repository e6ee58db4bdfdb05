// The products: one block of registers, and the packing of its operands.
//
// acc[r][n] += sum_k A(r, k) B(k, n). B lies packed in panels: [panel][k][kCols], so that each step reads one short run;
// A is read in place with any two strides, one element a time, which serves A and its transpose alike. All five products
// of attention (q k, p v, and the backward's) are this one with other packings. Refuses to know what the matrices mean.
#pragma once

#include <utility>

#include "vec.h"

namespace qkv::QKV_TARGET {

#if QKV_LANES == 16 && !defined(QKV_WIDE_SMALL)
constexpr int kBlockRows = 12;  // 24 of 32 registers hold sums
#else
constexpr int kBlockRows = 6;   // 12 of 16
#endif
constexpr int kBlockVectors = 2;
template <class T> constexpr int kCols = kBlockVectors * Lanes<T>::count;
constexpr int kGroupRows = 24;  // rows that share a panel while it lies in the first cache

static QKV_INLINE int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// acc += A B over `depth` steps.
template <class T>
QKV_INLINE void multiply(int64_t depth, const T* a, int64_t a_row, int64_t a_step, const T* b,
                         Vec<T> (&acc)[kBlockRows][kBlockVectors]) {
    constexpr int W = Lanes<T>::count;
#pragma GCC unroll 4
    for (int64_t k = 0; k < depth; ++k) {
        Vec<T> right[kBlockVectors];
#pragma GCC unroll 4
        for (int n = 0; n < kBlockVectors; ++n) right[n] = load<T>(b + n * W);
#pragma GCC unroll 16
        for (int r = 0; r < kBlockRows; ++r) {
            const Vec<T> left = splat<T>(a[r * a_row]);
#pragma GCC unroll 4
            for (int n = 0; n < kBlockVectors; ++n) acc[r][n] += left * right[n];
        }
        a += a_step;
        b += kCols<T>;
    }
}

// C = A B for one block.
template <class T>
QKV_INLINE void product(int64_t depth, const T* a, int64_t a_row, int64_t a_step, const T* b, T* c, int64_t c_row) {
    Vec<T> acc[kBlockRows][kBlockVectors] = {};
    multiply<T>(depth, a, a_row, a_step, b, acc);
#pragma GCC unroll 16
    for (int r = 0; r < kBlockRows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < kBlockVectors; ++n) store<T>(c + r * c_row + n * Lanes<T>::count, acc[r][n]);
}

// C = factor C + A B for one block; one factor for each row.
template <class T>
QKV_INLINE void rescaled_product(int64_t depth, const T* a, int64_t a_row, int64_t a_step, const T* b, T* c,
                                 int64_t c_row, const T* factor) {
    Vec<T> acc[kBlockRows][kBlockVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kBlockRows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < kBlockVectors; ++n)
            acc[r][n] = load<T>(c + r * c_row + n * Lanes<T>::count) * splat<T>(factor[r]);
    multiply<T>(depth, a, a_row, a_step, b, acc);
#pragma GCC unroll 16
    for (int r = 0; r < kBlockRows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < kBlockVectors; ++n) store<T>(c + r * c_row + n * Lanes<T>::count, acc[r][n]);
}

// C += A B for one block.
template <class T>
QKV_INLINE void added_product(int64_t depth, const T* a, int64_t a_row, int64_t a_step, const T* b, T* c,
                              int64_t c_row) {
    Vec<T> acc[kBlockRows][kBlockVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kBlockRows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < kBlockVectors; ++n) acc[r][n] = load<T>(c + r * c_row + n * Lanes<T>::count);
    multiply<T>(depth, a, a_row, a_step, b, acc);
#pragma GCC unroll 16
    for (int r = 0; r < kBlockRows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < kBlockVectors; ++n) store<T>(c + r * c_row + n * Lanes<T>::count, acc[r][n]);
}

// Lanes of a and b: the half of each pair of halves that `High` says, a's first.
template <class T, int Half, bool High, int... N>
QKV_INLINE Vec<T> halves(Vec<T> a, Vec<T> b, std::integer_sequence<int, N...>) {
    constexpr int W = Lanes<T>::count;
    return High ? __builtin_shufflevector(a, b, ((N & Half) ? N + W : N + Half)...)
                : __builtin_shufflevector(a, b, ((N & Half) ? N - Half + W : N)...);
}

template <class T, int Half> QKV_INLINE void turn(Vec<T> (&x)[Lanes<T>::count]) {
    constexpr int W = Lanes<T>::count;
    using Order = std::make_integer_sequence<int, W>;
#pragma GCC unroll 16
    for (int n = 0; n < W; ++n) {
        if (n & Half) continue;
        const Vec<T> a = x[n], b = x[n + Half];
        x[n] = halves<T, Half, false>(a, b, Order{});
        x[n + Half] = halves<T, Half, true>(a, b, Order{});
    }
    if constexpr (Half > 1) turn<T, Half / 2>(x);
}

// A square of vectors, turned over: out[n][m] = in[m][n].
template <class T> QKV_INLINE void transpose(Vec<T> (&x)[Lanes<T>::count]) { turn<T, Lanes<T>::count / 2>(x); }

// One number of each of W vectors, as the lanes of one vector: `join` folds pairs of lanes, always in the same order.
template <class T, int Half, int Count, class Join>
QKV_INLINE Vec<T> fold_lanes(Vec<T> (&x)[Lanes<T>::count], const Join& join) {
    using Order = std::make_integer_sequence<int, Lanes<T>::count>;
    if constexpr (Half == 0) {
        return x[0];
    } else {
        // Lane h of the result's upper half comes from the vectors of the upper half: bit by bit, lane n is vector n's.
#pragma GCC unroll 16
        for (int n = 0; n < Count / 2; ++n) {
            const Vec<T> a = x[n], b = x[n + Count / 2];
            x[n] = join(halves<T, Half, false>(a, b, Order{}), halves<T, Half, true>(a, b, Order{}));
        }
        return fold_lanes<T, Half / 2, Count / 2>(x, join);
    }
}

// The sum of each of W vectors.
template <class T> QKV_INLINE Vec<T> sums_of(Vec<T> (&x)[Lanes<T>::count]) {
    return fold_lanes<T, Lanes<T>::count / 2, Lanes<T>::count>(x, [](Vec<T> a, Vec<T> b) QKV_LAMBDA { return a + b; });
}

// The largest lane of each of W vectors; NaN may be passed over.
template <class T> QKV_INLINE Vec<T> largest_of_each(Vec<T> (&x)[Lanes<T>::count]) {
    return fold_lanes<T, Lanes<T>::count / 2, Lanes<T>::count>(
        x, [](Vec<T> a, Vec<T> b) QKV_LAMBDA { return larger(a, b); });
}

// 0 for every lane that is not finite, and NaN in `odd` for those.
template <class T> QKV_INLINE Vec<T> only_finite(Vec<T> x, Vec<T>& odd) {
    const Vec<T> zero = x * T(0);  // NaN where x is not finite
    odd += zero;
    return zero == zero ? x : Vec<T>{};
}

// Items (rows of a tensor) by the address of each: `at(n)` is the first element, features lie `step` apart.
//
// Packed across: [panel][feature][kCols] with an item in each column, those past the last one 0; what a score is the
// product with. `Clean`: elements that are not finite are packed as 0.
template <class T, class E, bool Clean = false, class At>
QKV_INLINE void pack_across(At at, int64_t num_items, int64_t features, int64_t step, T* to) {
    constexpr int W = Lanes<T>::count, C = kCols<T>;
    Vec<T> odd = {};
    for (int64_t first = 0; first < num_items; first += C, to += features * C) {
        for (int part = 0; part < C; part += W) {
            const E* from[W];
            const int64_t left = num_items - first - part;
            const int count = left < 0 ? 0 : left < W ? static_cast<int>(left) : W;
            for (int n = 0; n < count; ++n) from[n] = at(first + part + n);
            int64_t f = 0;
            if (step == 1) {
                for (; f + W <= features; f += W) {
                    Vec<T> x[W];
#pragma GCC unroll 16
                    for (int n = 0; n < W; ++n) x[n] = n < count ? Read<T, E>::from(from[n] + f) : Vec<T>{};
                    transpose<T>(x);
#pragma GCC unroll 16
                    for (int n = 0; n < W; ++n)
                        store<T>(to + (f + n) * C + part, Clean ? only_finite<T>(x[n], odd) : x[n]);
                }
            }
            for (; f < features; ++f) {
                for (int n = 0; n < W; ++n) {
                    const T x = n < count ? static_cast<T>(widened(from[n][f * step])) : T(0);
                    to[f * C + part + n] = Clean && x - x != T(0) ? T(0) : x;
                }
            }
        }
    }
}

// Packed along: [panel][item][kCols] with a run of features in each panel, those past the last one 0, and items as they
// come, times `factor`; what weights are multiplied with. The panels have room for `num_rows` >= num_items items, those
// past the last one 0. Returns whether every element is finite. `Clean`: those that are not are packed as 0.
template <class T, class E, bool Clean, class At>
QKV_INLINE bool pack_along(At at, int64_t num_items, int64_t num_rows, int64_t features, int64_t step, T factor, T* to) {
    constexpr int W = Lanes<T>::count, C = kCols<T>;
    Vec<T> odd = {};
    const int64_t panels = rounded_up(features, C) / C;
    for (int64_t n = 0; n < num_rows; ++n) {
        const E* from = n < num_items ? at(n) : nullptr;
        for (int64_t panel = 0; panel < panels; ++panel) {
            T* out = to + (panel * num_rows + n) * C;
            for (int part = 0; part < C; part += W) {
                const int64_t f = panel * C + part;
                Vec<T> x = {};
                if (from && step == 1 && f + W <= features) {
                    x = Read<T, E>::from(from + f);
                } else if (from) {
                    for (int m = 0; m < W; ++m)
                        if (f + m < features) x[m] = static_cast<T>(widened(from[(f + m) * step]));
                }
                const Vec<T> sound = only_finite<T>(x, odd);
                store<T>(out + part, (Clean ? sound : x) * splat<T>(factor));
            }
        }
    }
    return sum_lanes<T>(odd) == T(0);
}

}  // namespace qkv::QKV_TARGET
