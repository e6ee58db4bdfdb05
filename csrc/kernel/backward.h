// The backward: each block's scores made again from the row's lse, and five products in registers.
//
// With p the weights and delta = sum(grad * output): d(score) = p (grad . v - delta) (Dao et al. 2022, appendix B); terms
// carry it to the product of q and k, and to their tables. A task walks rows in chunks, keys in blocks, and keeps sums of
// its own for dk and dv. What is dropped has weight 0 and no gradient, whatever it holds; what is kept and not finite has
// none either. Refuses to know threads and where sums of several tasks meet.
#pragma once

#include "forward.h"

namespace qkv::QKV_TARGET {

constexpr int kBackKeys = 192;       // a multiple of kBlockRows and of kCols
constexpr int kBackRows = 48;        // of a group; long sums over rows are worth more here than short panels
constexpr int kBackChunk = 384;

template <class T> struct BackWorkspace {
    T *q, *q_along, *grad, *grad_along, *dq, *lse, *delta, *buckets;
    T *k, *k_along, *v, *scores, *slopes, *raw;
    T *dk, *dv;
    Scratch terms;

    // Calls visit(pointer, count) for every array, in one order for counting and for placing.
    template <class Visit> void each(const Backward& c, int64_t chunk, int64_t own_keys, const Visit& visit) {
        const int64_t d = c.feature_size, e = c.value_size, wide_d = padded_values<T>(d), wide_e = padded_values<T>(e);
        visit(scores, kBackRows * kBackKeys), visit(slopes, kBackRows * kBackKeys);
        visit(raw, c.scored ? kBackRows * kBackKeys : 0);
        visit(q, chunk * d), visit(q_along, chunk * wide_d), visit(grad, chunk * e), visit(grad_along, chunk * wide_e);
        visit(dq, chunk * wide_d), visit(lse, chunk), visit(delta, chunk), visit(buckets, chunk * c.num_buckets);
        visit(k, kBackKeys * d), visit(k_along, kBackKeys * wide_d), visit(v, kBackKeys * e);
        visit(dk, own_keys * wide_d), visit(dv, own_keys * wide_e);
    }
    static size_t bytes(const Backward& c, int64_t chunk, int64_t own_keys) {
        BackWorkspace none;
        size_t total = 64 + (c.terms ? c.terms->scratch_bytes + 64 : 0);
        none.each(c, chunk, own_keys, [&](T*&, int64_t count) { total += (count * sizeof(T) + 63) / 64 * 64; });
        return total;
    }
    BackWorkspace() = default;
    BackWorkspace(const Backward& c, int64_t chunk, int64_t own_keys, void* memory) {
        auto* next = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64);
        each(c, chunk, own_keys, [&](T*& to, int64_t count) {
            to = reinterpret_cast<T*>(next);
            next += (count * sizeof(T) + 63) / 64 * 64;
        });
        terms.memory = next;
    }
};

template <class T> struct BackTask {
    const Backward& call;
    const BackwardSchedule& how;
    const int64_t shared;
    const int64_t d, e, wide_d, wide_e;
    const bool powers_of_two;
    const T scale, unit;
    const Source keys, values;
    T* const* tables;
    BackWorkspace<T> work;
    int64_t row0 = 0, num_rows = 0;  // of the chunk

    BackTask(const Backward& c, const BackwardSchedule& s, int64_t problem, T* const* table_grads, void* memory)
        : call(c), how(s), shared(problem), d(c.feature_size), e(c.value_size), wide_d(padded_values<T>(d)),
          wide_e(padded_values<T>(e)), powers_of_two(sizeof(T) == 4 && !c.scored && c.weighing == Weighing::softmax),
          scale(static_cast<T>(c.scale)), unit(powers_of_two ? static_cast<T>(kLog2E) : T(1)),
          keys(c, c.k, c.element, 0, problem), values(c, c.v, c.element, 0, problem), tables(table_grads),
          work(c, s.chunk_rows, s.num_parts == 1 ? rounded_up(s.num_keys, kBackKeys) : 0, memory) {}

    int64_t terms_shared() const { return call.terms_shared ? shared % call.terms_shared : shared; }

    Verdict verdict(int64_t row, int64_t rows, int64_t key, int64_t count) const {
        if (!call.masked) return Verdict::all;
        return rows_verdict(call, terms_shared(), row0 + row, rows, key, count);
    }

    // Rows from `first` to `last`, with dk and dv summed into these arrays, [keys][padded features], zeroed here.
    void run(int64_t first, int64_t last, T* dk, T* dv) {
        work.dk = dk, work.dv = dv;
        memset(dk, 0, sizeof(T) * rounded_up(how.num_keys, kBackKeys) * wide_d);
        memset(dv, 0, sizeof(T) * rounded_up(how.num_keys, kBackKeys) * wide_e);
        for (row0 = first; row0 < last; row0 += how.chunk_rows) {
            num_rows = last - row0 < how.chunk_rows ? last - row0 : how.chunk_rows;
            load_rows();
            visit(0, how.num_keys, !call.masked);
            if (call.dq.data) write_rows();
        }
    }

    void load_rows() {
        const int64_t all = rounded_up(num_rows, kBackRows);
        for (int64_t n = 0; n < num_rows; ++n) {
            read_features<T>(call.element, item_at(call, call.rows, call.q, call.element, shared, row0 + n), d, call.q.last, scale * unit, work.q + n * d);
            const void* incoming = item_at(call, call.rows, call.grad, call.grad_element, shared, row0 + n);
            read_features<T>(call.grad_element, incoming, e, call.grad.last, T(1), work.grad + n * e);
            const T lse = call.lse.data ? *Items<const T>(call, call.rows, call.lse, shared, row0 + n)(0) : T(0);
            work.lse[n] = lse == -static_cast<T>(__builtin_inff()) ? T(0) : lse * unit;
            work.delta[n] = call.delta.data ? *Items<const T>(call, call.rows, call.delta, shared, row0 + n)(0) : T(0);
            for (int64_t m = 0; m < call.num_buckets; ++m)
                work.buckets[n * call.num_buckets + m] =
                    Items<const T>(call, call.rows, call.bucket_grad, shared, row0 + n)(0)[m * call.bucket_grad.last];
        }
        memset(work.q + num_rows * d, 0, sizeof(T) * (all - num_rows) * d);
        memset(work.grad + num_rows * e, 0, sizeof(T) * (all - num_rows) * e);
        memset(work.dq, 0, sizeof(T) * all * wide_d);
        const auto go = [&]<class E>(E) QKV_LAMBDA {
            const Items<const E> queries(call, call.rows, call.q, shared, row0);
            pack_along<T, E, true>(queries, num_rows, how.chunk_rows, d, call.q.last, scale, work.q_along);
        };
        by_element<T>(call.element, go);
        pack_along<T, T, false>(Line<const T>{work.grad, e}, num_rows, how.chunk_rows, e, 1, T(1), work.grad_along);
    }

    void write_rows() const {
        for (int64_t n = 0; n < num_rows; ++n)
            write_features<T>(call.element, work.dq + n * wide_d, d, scale,
                              item_at(call, call.rows, call.dq, call.element, shared, row0 + n), call.dq.last);
    }

    void visit(int64_t first, int64_t last, bool whole) {
        if (first >= last) return;
        if (!whole) {
            const Verdict found = verdict(0, num_rows, first, last - first);
            if (found == Verdict::none) return;
            whole = found == Verdict::all;
        }
        if (last - first <= kBackKeys) return block(first, last - first, whole);
        const int64_t middle = first + (last - first + 2 * kBackKeys - 1) / (2 * kBackKeys) * kBackKeys;
        visit(first, middle, whole);
        visit(middle, last, whole);
    }

    void block(int64_t key0, int64_t count, bool whole) {
        const auto go = [&]<class E>(E) QKV_LAMBDA {
            const auto key_at = [&](int64_t n) { return static_cast<const E*>(keys.at(key0 + n)); };
            const auto value_at = [&](int64_t n) { return static_cast<const E*>(values.at(key0 + n)); };
            pack_across<T, E>(key_at, count, d, call.k.last, work.k);
            pack_across<T, E, true>(value_at, count, e, call.v.last, work.v);
            pack_along<T, E, true>(key_at, count, kBackKeys, d, call.k.last, T(1), work.k_along);
        };
        by_element<T>(call.element, go);
        for (int64_t row = 0; row < num_rows; row += kBackRows)
            group(row, static_cast<int>(num_rows - row < kBackRows ? num_rows - row : kBackRows), key0, count, whole);
    }

    void group(int64_t row, int rows, int64_t key0, int64_t count, bool whole) {
        const auto ask = [&](int64_t key, int64_t width) { return verdict(row, rows, key0 + key, width); };
        const Kept kept = kept_stretch(ask, count, whole);
        if (!kept.any()) return;
        const int64_t first = kept.first, last = kept.last;
        constexpr int C = kCols<T>;
        const int tiles = (rows + kBlockRows - 1) / kBlockRows;
        const int64_t left = first / C * C, right = rounded_up(last, C);
        for (int64_t column = left; column < right; column += C) {
            for (int tile = 0; tile < tiles; ++tile) {
                const int64_t at = tile * kBlockRows * kBackKeys + column, from = row + tile * kBlockRows;
                product<T>(d, work.q + from * d, d, 1, work.k + column * d, work.scores + at, kBackKeys);
                product<T>(e, work.grad + from * e, e, 1, work.v + column * e, work.slopes + at, kBackKeys);
            }
        }
        const Place place{terms_shared(), row0 + row, rows, key0 + first, last - first};
        if (call.scored)
            for (int r = 0; r < rows; ++r)
                memcpy(work.raw + r * kBackKeys + first, work.scores + r * kBackKeys + first, sizeof(T) * (last - first));
        if (call.scored || !kept.whole)
            change_scores<T>(call, {place.shared, place.row0, rows, key0, count}, kept, work.scores, kBackKeys, work.terms);
        if (call.num_buckets) add_bucket_grads(row, place, first);
        for (int r = 0; r < rows; ++r) derive_row(row, r, key0, left, right, first, last);
        if (call.scored)
            terms_backward<T>(*call.terms, place, work.raw + first, kBackKeys, work.slopes + first, kBackKeys, !kept.whole,
                              tables, work.terms);
        add_products(row, rows, key0, first, last, tiles);
    }

    void add_bucket_grads(int64_t row, const Place& place, int64_t first) {
        int32_t read[kBackKeys];
        for (int64_t r = 0; r < place.rows; ++r) {
            const Place one{place.shared, place.row0 + r, 1, place.key0, place.keys};
            pair_rows(*call.terms, one, read, kBackKeys, work.terms);
            for (int64_t n = 0; n < place.keys; ++n)
                work.slopes[r * kBackKeys + first + n] += work.buckets[(row + r) * call.num_buckets + read[n]];
        }
    }

    // A row's scores become weights, and its grad . v the gradient of its scores.
    void derive_row(int64_t row, int r, int64_t key0, int64_t left, int64_t right, int64_t first, int64_t last) {
        constexpr int W = Lanes<T>::count;
        const T none = -static_cast<T>(__builtin_inff());
        T *s = work.scores + r * kBackKeys, *g = work.slopes + r * kBackKeys;
        for (int64_t n = left; n < first; ++n) s[n] = none;
        for (int64_t n = last; n < right; ++n) s[n] = none;
        if (call.dropout > 0) return derive_dropped(row, r, key0, left, right);
        const Vec<T> level = splat<T>(work.lse[row + r]), delta = splat<T>(work.delta[row + r]), nothing = splat<T>(none);
        if (call.weighing == Weighing::sigmoid) {
            for (int64_t n = left; n < right; n += W) {
                const Vec<T> x = load<T>(s + n);
                const Vec<T> p = sigmoid_weight<T>(x + splat<T>(static_cast<T>(call.bias)));
                const Vec<T> other = sigmoid_weight<T>(-x - splat<T>(static_cast<T>(call.bias)));
                const Vec<T> slope = load<T>(g + n) * p * other;
                store<T>(s + n, p);
                store<T>(g + n, x == nothing ? Vec<T>{} : slope);
            }
            return;
        }
        for (int64_t n = left; n < right; n += W) {
            const Vec<T> x = load<T>(s + n), below = x - level;
            const Vec<T> p = powers_of_two ? power_of_two(below) : exponential(below);
            const Vec<T> slope = p * (load<T>(g + n) - delta);
            store<T>(s + n, p);
            store<T>(g + n, x == nothing ? Vec<T>{} : slope);
        }
    }

    // The same where some weights were dropped: values saw p times survival, and so does grad . v.
    void derive_dropped(int64_t row, int r, int64_t key0, int64_t left, int64_t right) {
        const T none = -static_cast<T>(__builtin_inff());
        T *s = work.scores + r * kBackKeys, *g = work.slopes + r * kBackKeys;
        const Survival<T> survival(call, terms_shared(), row0 + row + r, key0);
        for (int64_t n = left; n < right; ++n) {
            const T x = s[n], survive = survival(n), incoming = g[n] * survive;
            T p, slope;
            if (call.weighing == Weighing::sigmoid) {
                p = sigmoid_weight<T>(splat<T>(x + static_cast<T>(call.bias)))[0];
                slope = incoming * p * sigmoid_weight<T>(splat<T>(-x - static_cast<T>(call.bias)))[0];
            } else {
                const Vec<T> below = splat<T>(x - work.lse[row + r]);
                p = (powers_of_two ? power_of_two(below) : exponential(below))[0];
                slope = p * (incoming - work.delta[row + r]);
            }
            s[n] = p * survive;
            g[n] = x == none ? T(0) : slope;
        }
    }

    void add_products(int64_t row, int rows, int64_t key0, int64_t first, int64_t last, int tiles) {
        constexpr int C = kCols<T>;
        // Columns beside the stretch belong to the blocks of keys that it ends in, and weigh nothing.
        const int64_t left = first / kBlockRows * kBlockRows, right = rounded_up(last, kBlockRows);
        for (int r = 0; r < rows; ++r) {
            for (int64_t n = left; n < first; ++n) work.scores[r * kBackKeys + n] = work.slopes[r * kBackKeys + n] = T(0);
            for (int64_t n = last; n < right; ++n) work.scores[r * kBackKeys + n] = work.slopes[r * kBackKeys + n] = T(0);
        }
        if (call.dq.data)
            for (int64_t panel = 0; panel < wide_d; panel += C)
                for (int tile = 0; tile < tiles; ++tile)
                    added_product<T>(last - first, work.slopes + tile * kBlockRows * kBackKeys + first, kBackKeys, 1,
                                     work.k_along + panel * kBackKeys + first * C,
                                     work.dq + (row + tile * kBlockRows) * wide_d + panel, wide_d);
        if (call.dv.data)
            for (int64_t panel = 0; panel < wide_e; panel += C)
                for (int64_t key = left; key < right; key += kBlockRows)
                    added_product<T>(rows, work.scores + key, 1, kBackKeys, work.grad_along + panel * how.chunk_rows + row * C,
                                     work.dv + (key0 + key) * wide_e + panel, wide_e);
        if (call.dk.data)
            for (int64_t panel = 0; panel < wide_d; panel += C)
                for (int64_t key = left; key < right; key += kBlockRows)
                    added_product<T>(rows, work.slopes + key, 1, kBackKeys, work.q_along + panel * how.chunk_rows + row * C,
                                     work.dk + (key0 + key) * wide_d + panel, wide_d);
    }
};

}  // namespace qkv::QKV_TARGET
