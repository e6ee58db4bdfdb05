// What is known of rows while their keys are summed: the online softmax, and what a call wants to know of each row.
//
// Scores lie in S[row][stride]. `fold` turns a stretch of scores into weights, in place, moves each row to its new level
// and says by which factor its sums so far shrink. Scores are natural, or powers of two where the factor log2(e) was
// folded into the queries. Refuses to know where scores come from and what is summed with the weights.
#pragma once

#include "exponential.h"
#include "gemm.h"
#include "places.h"

namespace qkv::QKV_TARGET {

// One entry for each row; `where` is the key of the largest score, -1 without any.
template <class T> struct RowState {
    T* level;    // what exponents are relative to: the largest score so far, sink included
    T* total;    // the sum of exponentials, sink included
    T* best;     // the largest score of a key
    T* mass;     // the sum of exponentials of keys, and of exponentials times scores below the level: for the entropy
    T* moment;
    int64_t* where;

    static constexpr int kFields = 5;

    void point(T* values, int64_t* places, int64_t rows) {
        level = values, total = values + rows, best = values + 2 * rows;
        mass = values + 3 * rows, moment = values + 4 * rows;
        where = places;
    }
};

template <class T> static void reset_row(const RowState<T>& rows, int64_t n, const T* sink, T unit) {
    const T none = -static_cast<T>(__builtin_inff());
    rows.level[n] = sink ? *sink * unit : none;
    rows.total[n] = sink ? T(1) : T(0);
    rows.best[n] = none;
    rows.mass[n] = rows.moment[n] = T(0);
    rows.where[n] = -1;
}

constexpr int kAtOnce = 4;  // vectors of weights in flight

struct FoldHow {
    bool powers_of_two;  // what unit scores are in
    bool spread;         // whether mass and moment are wanted
    bool place;          // whether `where` is wanted
};

template <class T, bool PowersOfTwo> QKV_INLINE Vec<T> weight_of(Vec<T> below) {
    return PowersOfTwo ? power_of_two(below) : exponential(below);
}

// The lanes' largest of a row's scores from `first` up to `last`, a multiple of a vector away; NaN may be passed over.
template <class T> QKV_INLINE Vec<T> largest_of(const T* s, int64_t first, int64_t last) {
    constexpr int W = Lanes<T>::count;
    Vec<T> best = splat<T>(-static_cast<T>(__builtin_inff())), other = best;
    int64_t n = first;
    for (; n + 2 * W <= last; n += 2 * W) {
        best = larger(best, load<T>(s + n));
        other = larger(other, load<T>(s + n + W));
    }
    if (n < last) best = larger(best, load<T>(s + n));
    return larger(best, other);
}

// The same of each of `count` rows, at most a vector of them.
template <class T>
QKV_INLINE void largest_of_rows(const T* s, int64_t stride, int count, int64_t first, int64_t last, T* out) {
    constexpr int W = Lanes<T>::count;
    Vec<T> best[W];
    for (int r = 0; r < W; ++r)
        best[r] = r < count ? largest_of<T>(s + r * stride, first, last) : Vec<T>{};
    store<T>(out, largest_of_each<T>(best));
}

// The first key with the row's largest score; the first NaN where there is one.
template <class T> static void note_place(const RowState<T>& rows, int64_t r, const T* s, int64_t first, int64_t last,
                                          int64_t key0, T factor, T best) {
    const bool was_nan = rows.best[r] != rows.best[r];
    if (was_nan) return;
    for (int64_t n = first; n < last; ++n) {
        if (s[n] != s[n]) {
            rows.best[r] = s[n];
            rows.where[r] = key0 + n;
            return;
        }
    }
    if (!(best * factor > rows.best[r])) return;
    for (int64_t n = first; n < last; ++n) {
        if (s[n] == best) {
            rows.where[r] = key0 + n;
            break;
        }
    }
    rows.best[r] = best * factor;
}

// A row's scores, times a factor, become weights; the lanes' sums of weights, and of weights times how far below the level
// they are.
template <class T, bool PowersOfTwo, bool Spread>
QKV_INLINE Vec<T> weigh_row(T* s, int64_t first, int64_t last, T factor, T level, Vec<T>& moment) {
    constexpr int W = Lanes<T>::count;
    const Vec<T> base = splat<T>(level), scale = splat<T>(factor);
    Vec<T> sum = {}, other = {};
    int64_t n = first;
    if constexpr (!Spread) {
        for (; n + kAtOnce * W <= last; n += kAtOnce * W) {
            Vec<T> x[kAtOnce];
#pragma GCC unroll 8
            for (int m = 0; m < kAtOnce; ++m) x[m] = load<T>(s + n + m * W) * scale - base;
            if constexpr (PowersOfTwo)
                powers_of_two<kAtOnce>(x);
            else
                exponentials<kAtOnce>(x);
#pragma GCC unroll 8
            for (int m = 0; m < kAtOnce; ++m) {
                store<T>(s + n + m * W, x[m]);
                (m % 2 ? other : sum) += x[m];
            }
        }
    }
    for (; n < last; n += W) {
        const Vec<T> below = load<T>(s + n) * scale - base;
        const Vec<T> a = weight_of<T, PowersOfTwo>(below);
        store<T>(s + n, a);
        sum += a;
        if constexpr (Spread) moment += a == Vec<T>{} ? Vec<T>{} : a * below;
    }
    return sum + other;
}

// Scores of `count` rows, from column `first` to `last` (multiples of a vector, padded with -inf), become weights.
// Scores count `factor` times, which is more than 0. `shrink[r]` is the factor of the row's sums so far; `key0` the key of
// column 0.
template <class T, bool PowersOfTwo, bool Spread>
QKV_INLINE void fold_how(const RowState<T>& rows, int64_t row0, int count, T* s, int64_t stride, int64_t first,
                         int64_t last, int64_t key0, T factor, bool place, T* shrink) {
    constexpr int W = Lanes<T>::count;
    const T none = -static_cast<T>(__builtin_inff());
    for (int part = 0; part < count; part += W, s += W * stride, row0 += W, shrink += W) {
        const int some = count - part < W ? count - part : W;
        T best[W], base[W], moved[W], mass[W], moment[W];
        largest_of_rows<T>(s, stride, some, first, last, best);
        for (int r = some; r < W; ++r) moved[r] = T(0);
        for (int r = 0; r < some; ++r) {
            const int64_t row = row0 + r;
            if (place)
                note_place<T>(rows, row, s + r * stride, first, last, key0, factor, best[r]);
            best[r] *= factor;
            if (!place) rows.best[row] = best[r] > rows.best[row] ? best[r] : rows.best[row];
            const T before = rows.level[row], level = best[r] > before ? best[r] : before;
            base[r] = level == none ? T(0) : level;
            moved[r] = before - base[r];
            if constexpr (Spread) rows.moment[row] += rows.mass[row] * ((before == none ? T(0) : before) - base[r]);
            rows.level[row] = level;
        }
        const Vec<T> shrunk = weight_of<T, PowersOfTwo>(load<T>(moved));
        store<T>(moved, shrunk);
        Vec<T> sums[W], moments[W];
        for (int r = 0; r < W; ++r) {
            moments[r] = Vec<T>{};
            sums[r] = r < some ? weigh_row<T, PowersOfTwo, Spread>(s + r * stride, first, last, factor, base[r], moments[r])
                               : Vec<T>{};
        }
        store<T>(mass, sums_of<T>(sums));
        if constexpr (Spread) store<T>(moment, sums_of<T>(moments));
        for (int r = 0; r < some; ++r) {
            const int64_t row = row0 + r;
            shrink[r] = moved[r];
            rows.total[row] = rows.total[row] * moved[r] + mass[r];
            if constexpr (Spread) {
                rows.moment[row] = rows.moment[row] * moved[r] + moment[r];
                rows.mass[row] = rows.mass[row] * moved[r] + mass[r];
            }
        }
    }
}

template <class T>
static void fold(const RowState<T>& rows, int64_t row0, int count, T* s, int64_t stride, int64_t first, int64_t last,
                 int64_t key0, T factor, FoldHow how, T* shrink) {
    if (how.powers_of_two) {
        if (how.spread)
            fold_how<T, true, true>(rows, row0, count, s, stride, first, last, key0, factor, how.place, shrink);
        else
            fold_how<T, true, false>(rows, row0, count, s, stride, first, last, key0, factor, how.place, shrink);
    } else if (how.spread) {
        fold_how<T, false, true>(rows, row0, count, s, stride, first, last, key0, factor, how.place, shrink);
    } else {
        fold_how<T, false, false>(rows, row0, count, s, stride, first, last, key0, factor, how.place, shrink);
    }
}

// 1 / (1 + e^-x) through e^-|x|, which never overflows; exactly 0 at -infinity.
template <class T> QKV_INLINE Vec<T> sigmoid_weight(Vec<T> x) {
    const Vec<T> one = splat<T>(T(1)), size = x < Vec<T>{} ? x : -x;
    const Vec<T> small = exponential(size), quotient = one / (one + small);
    return x < Vec<T>{} ? small * quotient : quotient;
}

// Sigmoid weights need no level; the largest score is noted where it is wanted.
template <class T>
static void fold_sigmoid(const RowState<T>& rows, int64_t row0, int count, T* s, int64_t stride, int64_t first,
                         int64_t last, int64_t key0, T bias, bool place, T* shrink) {
    constexpr int W = Lanes<T>::count;
    for (int r = 0; r < count; ++r) {
        T* row = s + r * stride;
        const T best = largest_lane<T>(largest_of<T>(row, first, last));
        if (place)
            note_place<T>(rows, row0 + r, row, first, last, key0, T(1), best);
        else if (best > rows.best[row0 + r])
            rows.best[row0 + r] = best;
        for (int64_t n = first; n < last; n += W) {
            store<T>(row + n, sigmoid_weight<T>(load<T>(row + n) + splat<T>(bias)));
        }
        shrink[r] = T(1);
    }
}

// Whether a row kept nothing: no score above -inf, and none that was NaN.
template <class T> QKV_INLINE bool is_dead(const RowState<T>& rows, int64_t r) {
    return rows.best[r] == -static_cast<T>(__builtin_inff()) && rows.total[r] == rows.total[r];
}

}  // namespace qkv::QKV_TARGET
