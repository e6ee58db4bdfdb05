// Products with K and V where they lie: for few rows, whose time is that of reading K and V once.
//
// Memory is the limit, so it is asked all the time: while scores are made, for V's rows of the same keys; while values are
// summed, for K's rows of the next block. A processor follows several rows of addresses at once faster than one: the keys
// that are taken together come from distant parts of the block, and so do the lines that are asked for. Scores: each row
// of K is multiplied with all queries while it is in registers. Values: a strip of features for all queries stays in
// registers over the whole block. Up to twelve sums in flight hide the latency of additions. Every element of V reaches
// a sum, be its weight 0 or not: callers give blocks that are kept whole.
#pragma once

#include "gemm.h"
#include "places.h"

namespace qkv::QKV_TARGET {

constexpr int kLineBytes = 64;
constexpr int kMostTogether = 256;  // keys of a block
// Values of which all features are summed before the next are: codes stay in the nearest cache meanwhile.
template <class E> constexpr int kNearValues = sizeof(E) == 1 ? 64 : kMostTogether;

QKV_INLINE void ask_for(const void* from, int64_t bytes) {
    for (int64_t n = 0; n < bytes; n += kLineBytes) __builtin_prefetch(static_cast<const char*>(from) + n, 0, 2);
}

// How many keys meet `Rows` queries at once, and how many vectors of V: the sums take the registers that operands leave.
template <class T, int Rows> constexpr int few_keys() {
    constexpr int W = Lanes<T>::count;
    return W > 8 && Rows != 3 ? W / Rows : Rows == 1 ? 8 : Rows == 4 ? 3 : 4;
}
template <class T, int Rows> constexpr int few_vectors() { return Rows == 1 ? 8 : Rows <= 3 ? 4 : Rows == 4 ? 3 : 2; }

// Of so many rows that are left, those taken at once: two passes of like size read K and V again from a cache.
template <class T> constexpr int kMostRows = Lanes<T>::count > 8 ? 8 : 4;
template <class T> QKV_INLINE int rows_at_once(int left) { return left <= kMostRows<T> ? left : (left + 1) / 2; }

// Calls go(std::integral_constant<int, N>{}) with N rows, of which there is a loop: 1 to 4, or the most.
template <class T, class Go> QKV_INLINE void by_rows(int rows, const Go& go) {
    if (rows == 1)
        go(std::integral_constant<int, 1>{});
    else if (rows == 2)
        go(std::integral_constant<int, 2>{});
    else if (rows == 3)
        go(std::integral_constant<int, 3>{});
    else if (rows == 4)
        go(std::integral_constant<int, 4>{});
    else
        go(std::integral_constant<int, kMostRows<T>>{});
}

// The sums of `Count` vectors' lanes; `out` has room for whole vectors of them.
template <class T, int Count> QKV_INLINE void store_sums(const Vec<T> (&of)[Count], T* out) {
    constexpr int W = Lanes<T>::count;
#pragma GCC unroll 8
    for (int n = 0; n < Count; n += W) {
        Vec<T> part[W];
#pragma GCC unroll 16
        for (int m = 0; m < W; ++m) part[m] = n + m < Count ? of[n + m] : Vec<T>{};
        store<T>(out + n, sums_of<T>(part));
    }
}

template <class T, class E, int Rows, int Keys>
QKV_INLINE void add_products(const T* q, int64_t d, const E* const (&key)[Keys], int64_t f, Vec<T> (&acc)[Rows * Keys]) {
    Vec<T> right[Keys];
#pragma GCC unroll 16
    for (int n = 0; n < Keys; ++n) right[n] = Read<T, E>::from(key[n] + f);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
        Vec<T> left = load<T>(q + r * d + f);
        if constexpr (Keys > 1) hold(left);
#pragma GCC unroll 16
        for (int n = 0; n < Keys; ++n) acc[n * Rows + r] += left * right[n];
    }
}

// Features past the last whole vector, or all of them where they do not lie side by side.
template <class T, class E>
__attribute__((noinline)) static void add_rest(const T* q, int rows, int64_t d, int64_t from, Line<const E> key, int keys,
                                               int64_t step, T* out) {
    for (int n = 0; n < keys; ++n) {
        for (int64_t f = from; f < d; ++f) {
            const T right = static_cast<T>(widened(key(n)[f * step]));
            for (int r = 0; r < rows; ++r) out[n * rows + r] += q[r * d + f] * right;
        }
    }
}

// `Rows` queries against `Keys` keys at once. Beside each line of a key, a line `ask` of another row is asked for, the
// next key's `ask_step` bytes further; nullptr asks for none.
template <class T, class E, int Rows, int Keys>
QKV_INLINE void few_scores(const T* q, int64_t d, Line<const E> key_at, int64_t step, const char* ask, int64_t ask_step,
                           T* out) {
    constexpr int W = Lanes<T>::count, Size = static_cast<int>(sizeof(E));
    constexpr int Stretch = kLineBytes / Size > W ? kLineBytes / Size : W;
    Vec<T> acc[Rows * Keys] = {};
    const E* key[Keys];
#pragma GCC unroll 16
    for (int n = 0; n < Keys; ++n) key[n] = key_at(n);
    int64_t f = 0;
    if (step == 1) {
        for (; f + Stretch <= d; f += Stretch) {
            if (ask) {
#pragma GCC unroll 16
                for (int n = 0; n < Keys; ++n) __builtin_prefetch(ask + n * ask_step + f * Size, 0, 2);
            }
#pragma GCC unroll 16
            for (int m = 0; m < Stretch; m += W) add_products<T, E, Rows, Keys>(q, d, key, f + m, acc);
        }
        for (; f + W <= d; f += W) add_products<T, E, Rows, Keys>(q, d, key, f, acc);
    }
    store_sums<T>(acc, out);
    if (f < d) add_rest<T, E>(q, Rows, d, f, key_at, Keys, step, out);
}

// Scores as they are made, the rows of a key side by side, become rows of scores.
template <class T, int Rows> QKV_INLINE void spread_rows(const T* made, int64_t count, T* s, int64_t stride) {
    for (int64_t n = 0; n < count; ++n)
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) s[r * stride + n] = made[n * Rows + r];
}

template <class T, class E, int Rows>
static void rows_scores(const T* q, int64_t d, Line<const E> key_at, const char* ask, int64_t ask_step, int64_t count,
                        int64_t step, T* s, int64_t stride) {
    constexpr int Keys = few_keys<T, Rows>();
    T out[rounded_up(Rows * Keys, Lanes<T>::count)];
    alignas(64) T made[Rows == 1 ? 1 : kMostTogether * Rows];
    T* to = Rows == 1 ? s : made;
    const int64_t part = count / Keys;  // keys at once lie so far apart
    const Line<const E> apart{key_at.base, key_at.step * part};
    for (int64_t n = 0; n < part; ++n) {
        few_scores<T, E, Rows, Keys>(q, d, {key_at(n), apart.step}, step, ask ? ask + n * ask_step : ask, part * ask_step, out);
#pragma GCC unroll 16
        for (int m = 0; m < Keys; ++m) __builtin_memcpy(to + (m * part + n) * Rows, out + m * Rows, Rows * sizeof(T));
    }
    for (int64_t n = part * Keys; n < count; ++n) {
        few_scores<T, E, Rows, 1>(q, d, {key_at(n), 0}, step, ask ? ask + n * ask_step : ask, 0, out);
        __builtin_memcpy(to + n * Rows, out, Rows * sizeof(T));
    }
    if constexpr (Rows > 1) spread_rows<T, Rows>(made, count, s, stride);
}

// Scores of up to 8 rows; q has room for a multiple of 8 rows.
template <class T, class E>
static void scores_in_place(const T* q, int rows, int64_t d, Line<const E> key_at, Line<const E> value_at, int64_t count,
                            int64_t step, T* s, int64_t stride) {
    const auto* ask = reinterpret_cast<const char*>(value_at.base);
    const int64_t ask_step = value_at.step * static_cast<int64_t>(sizeof(E));
    for (int row = 0, some; row < rows; row += some, ask = nullptr) {
        some = rows_at_once<T>(rows - row);
        by_rows<T>(some, [&]<int Rows>(std::integral_constant<int, Rows>) QKV_LAMBDA {
            rows_scores<T, E, Rows>(q + row * d, d, key_at, ask, ask_step, count, step, s + row * stride, stride);
        });
    }
}

// Lines of a block that are asked for a few at a time, from four parts of it by turns; any address may be asked for, and
// none is read.
struct Ahead {
    const char* base;
    int64_t part;  // bytes
};

template <class T, class E, int Rows, int Vectors>
QKV_INLINE void add_weighted(const T* p, int64_t p_row, const E* from, Vec<T> (&acc)[Rows][Vectors]) {
    Vec<T> right[Vectors];
#pragma GCC unroll 16
    for (int n = 0; n < Vectors; ++n) right[n] = Read<T, E>::from(from + n * Lanes<T>::count);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
        const Vec<T> left = splat<T>(p[r * p_row]);
#pragma GCC unroll 16
        for (int n = 0; n < Vectors; ++n) acc[r][n] += left * right[n];
    }
}

// sums[r] = factor[r] sums[r] + p[r] V over a strip of `Vectors` vectors.
template <class T, class E, int Rows, int Vectors>
QKV_INLINE void few_values(const T* p, int64_t p_row, const T* factor, Line<const E> value_at, int64_t count, int64_t f,
                           T* sums, int64_t row, Ahead& ahead) {
    constexpr int W = Lanes<T>::count;
    constexpr int64_t Bytes = Vectors * W * static_cast<int64_t>(sizeof(E));
    Vec<T> acc[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int n = 0; n < Vectors; ++n) acc[r][n] = load<T>(sums + r * row + f + n * W) * splat<T>(factor[r]);
    const E* from = value_at.base + f;
    const int64_t wrap = Bytes - 3 * ahead.part;  // from the last part to the first one's next lines
    int64_t k = 0;
    if constexpr (sizeof(E) == 1) {  // codes take more work than memory; for others one load whose step a processor learns
        for (; k + 4 <= count; k += 4) {
#pragma GCC unroll 4
            for (int turn = 0; turn < 4; ++turn, from += value_at.step) {
                if (ahead.base) ask_for(ahead.base + turn * ahead.part, Bytes);
                add_weighted<T, E, Rows, Vectors>(p + k + turn, p_row, from, acc);
            }
            if (ahead.base) ahead.base += Bytes;
        }
    }
    for (; k < count; ++k, from += value_at.step) {
        if (ahead.base) {
            ask_for(ahead.base, Bytes);
            ahead.base += k % 4 == 3 ? wrap : ahead.part;
        }
        add_weighted<T, E, Rows, Vectors>(p + k, p_row, from, acc);
    }
    if (ahead.base) ahead.base -= count % 4 * ahead.part;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int n = 0; n < Vectors; ++n) store<T>(sums + r * row + f + n * W, acc[r][n]);
}

template <class T, class E>
__attribute__((noinline)) static void rest_of_values(const T* p, int64_t p_row, const T* factor, int rows, Line<const E> value_at,
                                                     int64_t count, int64_t from, int64_t size, int64_t step, T* sums,
                                                     int64_t row) {
    for (int64_t f = from; f < size; ++f) {
        for (int r = 0; r < rows; ++r) {
            T sum = sums[r * row + f] * factor[r];
            for (int64_t k = 0; k < count; ++k) sum += p[r * p_row + k] * static_cast<T>(widened(value_at(k)[f * step]));
            sums[r * row + f] = sum;
        }
    }
}

// All strips of as many values as stay in the nearest cache, then those of the next.
template <class T, class E, int Rows>
static void rows_values(const T* p, int64_t p_row, const T* factor, Line<const E> value_at, int64_t count, int64_t size,
                        int64_t step, T* sums, int64_t row, Ahead ahead) {
    constexpr int W = Lanes<T>::count, Most = few_vectors<T, Rows>();
    T ones[Rows];
    for (int r = 0; r < Rows; ++r) ones[r] = T(1);
    const int64_t strips = step == 1 ? size / W * W : 0;
    for (int64_t first = 0, some; first < count; first += some, p += some, value_at.base += some * value_at.step) {
        some = count - first < kNearValues<E> ? count - first : kNearValues<E>;
        const T* so_far = first ? ones : factor;
        int64_t f = 0;
        for (; f + Most * W <= strips; f += Most * W)
            few_values<T, E, Rows, Most>(p, p_row, so_far, value_at, some, f, sums, row, ahead);
        if constexpr (Most > 2)
            for (; f + 2 * W <= strips; f += 2 * W)
                few_values<T, E, Rows, 2>(p, p_row, so_far, value_at, some, f, sums, row, ahead);
        for (; f < strips; f += W) few_values<T, E, Rows, 1>(p, p_row, so_far, value_at, some, f, sums, row, ahead);
        if (f < size) rest_of_values<T, E>(p, p_row, so_far, Rows, value_at, some, f, size, step, sums, row);
    }
}

// Weighted sums of up to 8 rows; p, factor and sums have room for 8 rows. `next` is where K goes on after this block.
template <class T, class E>
static void values_in_place(const T* p, int64_t p_row, const T* factor, int rows, Line<const E> value_at, int64_t count,
                            int64_t size, int64_t step, T* sums, int64_t row, const void* next) {
    Ahead ahead{static_cast<const char*>(next), count * size * static_cast<int64_t>(sizeof(E)) / 4};
    for (int first = 0, some; first < rows; first += some, ahead.base = nullptr) {
        some = rows_at_once<T>(rows - first);
        by_rows<T>(some, [&]<int Rows>(std::integral_constant<int, Rows>) QKV_LAMBDA {
            rows_values<T, E, Rows>(p + first * p_row, p_row, factor + first, value_at, count, size, step, sums + first * row,
                                    row, ahead);
        });
    }
}

}  // namespace qkv::QKV_TARGET
