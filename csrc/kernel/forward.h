// The forward: rows of queries meet keys block by block, and no score outlives its block.
//
// Many rows: K and V are packed once for a chunk of rows, and groups of rows run over the packed block (both products in
// registers, see gemm.h). Few rows, as in decoding: K and V are read in place, once for all rows of a problem
// (in_place.h). What masks drop is skipped by blocks; what they keep in part is decided pair by pair. Refuses to know
// threads: a task is one chunk of rows of one problem over one split of its keys.
#pragma once

#include "apply.h"
#include "dropout.h"
#include "in_place.h"
#include "pairs.h"
#include "rows.h"

namespace qkv::QKV_TARGET {

constexpr int kBlockKeys = kMostTogether;
constexpr int kMostChunkRows = 768;
constexpr int kStepKeys = 32;  // masks are asked for stretches of this many keys within a block,
constexpr int kWideKeys = 64;  // after those of two
constexpr int64_t kMaskRows = 64;  // where masks made of blocks change from row to row: groups are asked for in two there
constexpr int kFewRows = 8;    // so few rows are not worth packing K for

template <class T> constexpr int64_t padded_values(int64_t size) { return (size + kCols<T> - 1) / kCols<T> * kCols<T>; }

template <class E, class T> QKV_INLINE E narrowed_to(T x) {
    if constexpr (sizeof(T) == 8)
        return x;
    else
        return narrowed<E>(x);
}

QKV_INLINE float natural_log(float x) { return __builtin_logf(x); }
QKV_INLINE double natural_log(double x) { return __builtin_log(x); }

// The mask's verdict for a group of rows and some keys; one that is not known for a group across an edge of blocks may
// be known on each side.
static Verdict rows_verdict(const Problem& call, int64_t shared, int64_t row, int64_t rows, int64_t key, int64_t keys) {
    const Verdict found = keep_verdict(*call.terms, shared, row, rows, key, keys);
    const int64_t run = call.rows.count ? call.rows.size[call.rows.count - 1] : 1;
    const int64_t before = kMaskRows - row % run % kMaskRows;
    if (found != Verdict::some || rows > kMaskRows || before >= rows) return found;
    const Verdict above = keep_verdict(*call.terms, shared, row, before, key, keys);
    if (above == Verdict::some) return found;
    return keep_verdict(*call.terms, shared, row + before, rows - before, key, keys) == above ? above : found;
}

// What rows keep of a block: the keys from `first` to `last`. Where that is not the whole of them, bits say more of the
// stretches between (bit n: from n * kStepKeys on): kept in part, or not at all; and of those kept in part, where the first
// `edge` rows keep all and the others nothing, and where it is the other way round.
struct Kept {
    int64_t first = 0, last = 0;
    bool whole = false;
    uint32_t partial = 0, empty = 0, above = 0, below = 0;
    int edge = 0;

    bool any() const { return first < last; }
};

// What is kept of `count` keys. `ask(key, width)` is the mask's verdict; `whole` says that all of them are.
template <class Ask> QKV_INLINE Kept kept_stretch(const Ask& ask, int64_t count, bool whole) {
    static_assert(kBlockKeys <= 32 * kStepKeys && kWideKeys == 2 * kStepKeys);
    if (whole) return {0, count, true};
    const Verdict found = ask(0, count);
    if (found == Verdict::none) return {};
    if (found == Verdict::all) return {0, count, true};
    Kept kept;
    uint32_t empty = 0;
    const auto note = [&](int64_t step, int64_t width, Verdict part) {
        const uint32_t bit = uint32_t{1} << step / kStepKeys;
        if (part == Verdict::none) {
            empty |= bit;
            return;
        }
        if (!kept.any()) kept.first = step, empty = 0;
        kept.last = step + width, kept.empty = empty;  // those behind the last one are none of its part
        if (part == Verdict::some) kept.partial |= bit;
    };
    for (int64_t wide = 0; wide < count; wide += kWideKeys) {
        const int64_t all = count - wide < kWideKeys ? count - wide : kWideKeys;
        const Verdict both = all == count ? Verdict::some : ask(wide, all);
        for (int64_t step = wide; step < wide + all; step += kStepKeys) {
            const int64_t width = wide + all - step < kStepKeys ? wide + all - step : kStepKeys;
            note(step, width, both != Verdict::some || width == all ? both : ask(step, width));
        }
    }
    kept.whole = kept.partial == 0 && kept.empty == 0;
    return kept;
}

// What terms make of the scores of a block: stretches that are kept whole pay nothing for the mask, nor do rows that keep all
// of one.
template <class T>
static void change_scores(const Problem& call, const Place& block, const Kept& kept, T* s, int64_t stride, Scratch& scratch) {
    const T none = -static_cast<T>(__builtin_inff());
    const auto bits = [&](int64_t key) {
        const int64_t n = key / kStepKeys;
        return (kept.partial >> n & 1) | (kept.empty >> n & 1) << 1 | (kept.above >> n & 1) << 2 | (kept.below >> n & 1) << 3;
    };
    const auto drop = [&](int64_t row, int64_t rows, int64_t from, int64_t to) {
        for (int64_t r = row; r < row + rows; ++r)
            for (int64_t n = from; n < to; ++n) s[r * stride + n] = none;
    };
    const auto apply = [&](int64_t row, int64_t rows, int64_t from, int64_t to, bool masked) {
        const Place place{block.shared, block.row0 + row, rows, block.key0 + from, to - from};
        if (call.scored || masked) apply_terms<T>(*call.terms, place, s + row * stride + from, stride, masked, scratch);
    };
    if (kept.whole) return apply(0, block.rows, kept.first, kept.last, false);
    const auto end = [&](int64_t key) { return kept.last - key < kStepKeys ? kept.last : key + kStepKeys; };
    for (int64_t from = kept.first, to; from < kept.last; from = to) {
        const uint32_t found = bits(from);
        for (to = end(from); to < kept.last && bits(to) == found; to = end(to)) {}
        const bool above = found & 4, below = found & 8;
        if (found & 2) {
            drop(0, block.rows, from, to);
        } else if (above || below) {
            drop(above ? kept.edge : 0, above ? block.rows - kept.edge : kept.edge, from, to);
            apply(above ? 0 : kept.edge, above ? kept.edge : block.rows - kept.edge, from, to, false);
        } else {
            apply(0, block.rows, from, to, found & 1);
        }
    }
}

// Calls go(E{}) with the type of elements: only the loops that meet them are made for every type.
template <class T, class Go> QKV_INLINE void by_element(Element element, const Go& go) {
    if constexpr (sizeof(T) == 8)
        go(double{});
    else if (element == Element::f32)
        go(float{});
    else if (element == Element::bf16)
        go(BF16{});
    else
        go(F16{});
}

// The same for keys and values; codes are bytes here, half bytes having been opened.
template <class T, class Go> QKV_INLINE void by_key_element(Element element, const Go& go) {
    if (sizeof(T) == 4 && is_code(element)) {
        if constexpr (sizeof(T) == 4) go(int8_t{});
    } else {
        by_element<T>(element, go);
    }
}

// One row of results, times a factor, into its tensor.
template <class T>
static void write_features(Element element, const T* from, int64_t count, T factor, void* row, int64_t step) {
    const auto go = [&]<class E>(E) QKV_LAMBDA {
        constexpr int W = Lanes<T>::count;
        E* to = static_cast<E*>(row);
        int64_t f = 0;
        if (step == 1)
            for (; f + W <= count; f += W) Write<T, E>::to(to + f, load<T>(from + f) * splat<T>(factor));
        for (; f < count; ++f) to[f * step] = narrowed_to<E>(from[f] * factor);
    };
    by_element<T>(element, go);
}

// One row, times a factor.
template <class T>
static void read_features(Element element, const void* row, int64_t count, int64_t step, T factor, T* to) {
    const auto go = [&]<class E>(E) QKV_LAMBDA {
        constexpr int W = Lanes<T>::count;
        const E* from = static_cast<const E*>(row);
        int64_t f = 0;
        if (step == 1)
            for (; f + W <= count; f += W) store<T>(to + f, Read<T, E>::from(from + f) * splat<T>(factor));
        for (; f < count; ++f) to[f] = static_cast<T>(widened(from[f * step])) * factor;
    };
    by_element<T>(element, go);
}

QKV_INLINE int64_t code_bytes(int64_t features) { return rounded_up(features, kCodeRun); }

// Half bytes as bytes: whole runs of features.
static void open_codes(const uint8_t* from, int64_t features, int8_t* to) {
    constexpr int kHalf = kCodeRun / 2;
    for (int64_t f = 0; f < features; f += kCodeRun, from += kHalf, to += kCodeRun) {
        for (int n = 0; n < kHalf; ++n) to[n] = static_cast<int8_t>((from[n] & 15) - 8);
        for (int n = 0; n < kHalf; ++n) to[n + kHalf] = static_cast<int8_t>((from[n] >> 4) - 8);
    }
}

static bool is_few(const Problem& problem) { return problem.rows.total() <= kFewRows; }

// Whether a call's products are those of pairs of bfloat16 (pairs.h), and how many of its rows go together. Weights are
// rounded then, which an output of bfloat16 bears and one of floats would show.
template <class T> QKV_INLINE bool is_paired(const Forward& call) {
    const bool all = call.element == Element::bf16 && call.key_element == Element::bf16 && call.out_element == Element::bf16;
    return kHasPairs && sizeof(T) == 4 && all && !is_few(call);
}
constexpr int64_t kWeightStep = kBlockKeys + kPairStep;  // from row to row of weights as bfloat16: no power of two
constexpr int kMostGroupRows = kHasPairs ? kPairRows : kGroupRows;
template <class T> QKV_INLINE int group_rows_of(const Forward& call) { return is_paired<T>(call) ? kPairRows : kGroupRows; }

// What a task works in; all of it from one piece of memory.
template <class T> struct Workspace {
    T *q, *k, *v, *s, *sums, *shrink;
    RowState<T> rows;
    uint8_t* keeps;        // which rows keep a key whose value is not finite, by row and key
    uint16_t *q_pairs, *k_pairs, *v_pairs, *weights;  // of products of pairs: operands as bfloat16
    uint8_t *odd_rows, *odd_keys;                     // which of them hold numbers that these products take for 0
    T* buckets;
    float *k_scales, *v_scales;  // of a block of codes
    int8_t *k_codes, *v_codes;   // half bytes of a block, opened
    Scratch terms;

    static int64_t coded(const Forward& call) {
        if (!is_code(call.key_element)) return 0;
        const int64_t opened = call.key_element == Element::code4 ? code_bytes(call.feature_size) + code_bytes(call.value_size) : 0;
        return kBlockKeys * (2 * static_cast<int64_t>(sizeof(float)) + opened);
    }
    // Packed floats, or pairs in their place.
    static int64_t packed(const Forward& call) {
        return is_paired<T>(call) ? 0 : kBlockKeys * (call.feature_size + padded_values<T>(call.value_size));
    }
    static int64_t paired(const Forward& call, int64_t rows) {
        if (!is_paired<T>(call)) return 0;
        const int64_t depth = rounded_up(call.feature_size, kPairStep), e = padded_values<T>(call.value_size);
        return 2 * ((rows + kBlockKeys) * depth + kBlockKeys * e + kPairRows * kWeightStep) + rows + kBlockKeys + 6 * 64;
    }
    static int64_t values(const Forward& call, int64_t rows) {
        const int64_t d = call.feature_size, e = padded_values<T>(call.value_size);
        return rows * d + packed(call) + kMostGroupRows * kBlockKeys + rows * e + kMostGroupRows +
               RowState<T>::kFields * rows + rows * call.num_buckets + 64;
    }
    static size_t bytes(const Forward& call, int64_t rows) {
        return sizeof(T) * values(call, rows) + sizeof(int64_t) * rows + kMostGroupRows * kBlockKeys + coded(call) +
               paired(call, rows) + 256 + (call.terms ? call.terms->scratch_bytes : 0);
    }
    Workspace(const Forward& call, int64_t num_rows, void* memory) {
        const int64_t d = call.feature_size, e = padded_values<T>(call.value_size);
        auto* next = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64);
        const auto take = [&next](int64_t count) {
            T* out = next;
            next += (count * sizeof(T) + 63) / 64 * 64 / sizeof(T);
            return out;
        };
        const bool pairs = is_paired<T>(call);
        s = take(kMostGroupRows * kBlockKeys), q = take(num_rows * d);
        k = take(pairs ? 0 : kBlockKeys * d), v = take(pairs ? 0 : kBlockKeys * e);
        sums = take(num_rows * e), shrink = take(kMostGroupRows);
        T* fields = take(RowState<T>::kFields * num_rows);
        buckets = take(num_rows * call.num_buckets);
        auto* places = reinterpret_cast<int64_t*>(next);
        rows.point(fields, places, num_rows);
        keeps = reinterpret_cast<uint8_t*>(places + num_rows);
        k_scales = reinterpret_cast<float*>(keeps + kMostGroupRows * kBlockKeys), v_scales = k_scales + kBlockKeys;
        k_codes = reinterpret_cast<int8_t*>(v_scales + kBlockKeys);
        v_codes = k_codes + kBlockKeys * code_bytes(call.feature_size);
        const auto after = reinterpret_cast<uintptr_t>(keeps + kMostGroupRows * kBlockKeys) + coded(call);
        auto* bytes = reinterpret_cast<char*>((after + 63) / 64 * 64);
        if (pairs) {
            const int64_t depth = rounded_up(d, kPairStep);
            const auto take_pairs = [&bytes](int64_t count) {
                auto* out = reinterpret_cast<uint16_t*>(bytes);
                bytes += (2 * count + 63) / 64 * 64;
                return out;
            };
            q_pairs = take_pairs(num_rows * depth), k_pairs = take_pairs(kBlockKeys * depth), v_pairs = take_pairs(kBlockKeys * e);
            weights = take_pairs(kPairRows * kWeightStep);
            odd_rows = reinterpret_cast<uint8_t*>(bytes), odd_keys = odd_rows + num_rows;
            bytes += (num_rows + kBlockKeys + 63) / 64 * 64;
        }
        terms.memory = bytes;
    }
};

// Where a stretch of a problem's keys and values lies, and as what; `opened`: half bytes, which become bytes block by block.
struct Segment {
    Source keys, values;
    Element element;
    bool coded, opened;
    int64_t k_item, k_last, v_item, v_last;

    static Segment whole(const Forward& c, int64_t problem) {
        const Element element = c.key_element;
        return {{c, c.k, element, c.placed.k_page, problem}, {c, c.v, element, c.placed.v_page, problem}, element,
                is_code(element), element == Element::code4, c.k.item[0], c.k.last, c.v.item[0], c.v.last};
    }
    static Segment recent(const Forward& c, int64_t problem) {
        const Recent& of = c.recent;
        return {{c, of, of.k, problem}, {c, of, of.v, problem}, of.element, false, false, of.k.item[0], of.k.last, of.v.item[0], of.v.last};
    }
};

// One chunk of rows of one problem, and the keys that it has met so far.
template <class T> struct Chunk {
    const Forward& call;
    const int64_t shared, row0, num_rows, num_keys;
    const int64_t d, e;  // feature size; value size, padded to whole panels
    const bool few, paired;
    const int group_size;
    const FoldHow how;
    const T unit;        // of scores: log2(e) where they are powers of two
    T left_over = T(1);  // of products of pairs: the factor that their queries do not carry
    Segment segment;     // of the keys that are met now
    Workspace<T> work;
    int64_t packed_from = 0, num_packed = 0;  // of the block that was packed last
    bool any_odd_key = false;

    Chunk(const Forward& c, int64_t problem, int64_t first, int64_t count, void* memory)
        : call(c), shared(problem), row0(first), num_rows(count), num_keys(c.keys.total()),
          d(c.feature_size), e(padded_values<T>(c.value_size)), few(is_few(c)),
          paired(is_paired<T>(c)), group_size(group_rows_of<T>(c)),
          how{sizeof(T) == 4 && !c.scored && c.weighing == Weighing::softmax, c.entropy.data != nullptr,
              c.level.data != nullptr || c.argmax.data != nullptr},
          unit(how.powers_of_two ? static_cast<T>(kLog2E) : T(1)), segment(Segment::whole(c, problem)),
          work(c, rounded_up(count, group_size), memory) {
        const T factor = paired ? split_factor(static_cast<T>(c.scale) * unit) : static_cast<T>(c.scale) * unit;
        for (int64_t n = 0; n < num_rows; ++n)
            read_features<T>(c.element, item_at(c, c.rows, c.q, c.element, problem, first + n), d, c.q.last, factor, work.q + n * d);
        const int64_t all = rounded_up(num_rows, group_size);
        memset(work.q + num_rows * d, 0, sizeof(T) * (all - num_rows) * d);
        memset(work.sums, 0, sizeof(T) * all * e);
        memset(work.buckets, 0, sizeof(T) * num_rows * c.num_buckets);
        for (int64_t n = 0; n < num_rows; ++n) {
            const T* sink = c.sink.data ? Items<const T>(c, c.rows, c.sink, problem, first + n)(0) : nullptr;
            reset_row<T>(work.rows, n, sink, unit);
        }
        if constexpr (kHasPairs && sizeof(T) == 4)
            if (paired) pair_queries(all);
    }

    int64_t terms_shared() const { return call.terms_shared ? shared % call.terms_shared : shared; }

    Verdict verdict(int64_t first_row, int64_t count, int64_t key0, int64_t count_keys) const {
        if (!call.masked) return Verdict::all;
        return rows_verdict(call, terms_shared(), row0 + first_row, count, key0, count_keys);
    }

    // All keys from `first` to `last`, of which those that lie as floats too are met as floats.
    void meet(int64_t first, int64_t last) {
        const bool all = !call.masked;
        const int64_t recent = call.recent.slots ? call.recent.first : last;
        const int64_t middle = recent < first ? first : recent < last ? recent : last;
        run(first, middle, all);
        if (middle == last) return;
        segment = Segment::recent(call, shared);
        run(middle, last, all);
    }

    // Keys of one segment: stretches that the mask leaves empty are halved away.
    void run(int64_t first, int64_t last, bool whole) {
        if (first >= last) return;
        if (!whole) {
            const Verdict found = verdict(0, num_rows, first, last - first);
            if (found == Verdict::none) return;
            whole = found == Verdict::all;
        }
        if (whole) {
            const bool in_place = reads_in_place(true);
            for (int64_t key = first, step; key < last; key += step) {
                step = kBlockKeys;
                if (in_place && !segment.opened && segment.keys.together(key) < step) step = segment.keys.together(key);
                if (last - key < step) step = last - key;
                block(key, step, true);
            }
            return;
        }
        if (last - first <= kBlockKeys) return reads_in_place(true) ? stretches(first, last) : block(first, last - first, false);
        const int64_t blocks = (last - first + kBlockKeys - 1) / kBlockKeys;
        const int64_t middle = first + blocks / 2 * kBlockKeys;
        run(first, middle, false);
        run(middle, last, false);
    }

    // A block that few rows keep in part: what they keep whole is read in place, and only the rest is packed.
    void stretches(int64_t first, int64_t last) {
        const auto end = [&](int64_t key) { return last - key < kStepKeys ? last : key + kStepKeys; };
        const auto ask = [&](int64_t key) { return verdict(0, num_rows, key, end(key) - key); };
        for (int64_t from = first, to; from < last; from = to) {
            const Verdict found = ask(from);
            for (to = end(from); to < last && ask(to) == found; to = end(to)) {}
            if (found == Verdict::all)
                run(from, to, true);
            else if (found == Verdict::some)
                block(from, to - from, false);
        }
    }

    // A dropped key must not reach a sum, whatever it holds: only packing looks at values.
    bool reads_in_place(bool whole) const { return few && whole && call.num_buckets == 0 && call.keys.count == 1; }

    // A key and a value of the block that begins at key0.
    QKV_INLINE const void* key_of(int64_t key0, int64_t n) const {
        return segment.opened ? work.k_codes + n * code_bytes(d) : segment.keys.at(key0 + n);
    }
    QKV_INLINE const void* value_of(int64_t key0, int64_t n) const {
        return segment.opened ? work.v_codes + n * code_bytes(call.value_size) : segment.values.at(key0 + n);
    }

    // The mask's verdicts for one block, which groups of rows share: it is asked for kMaskRows rows at once, and for a group
    // alone only where these keep a part, or keep and drop.
    struct Verdicts {
        const Chunk& chunk;
        const int64_t key0, count, offset;  // offset: rows of the first kMaskRows that stand before the chunk
        // Of stretches, of two stretches, and of the block; 0: not asked.
        static constexpr int kSteps = kBlockKeys / kStepKeys, kWides = kBlockKeys / kWideKeys;
        uint8_t found[kMostChunkRows / kMaskRows + 1][kSteps + kWides + 1];

        Verdicts(const Chunk& of, int64_t key, int64_t keys)
            : chunk(of), key0(key), count(keys), offset(of.mask_offset()) {
            memset(found, 0, sizeof found);
        }

        Verdict ask(int64_t row, int64_t rows, int64_t key, int64_t width) {
            if (chunk.num_rows <= kMaskRows) return chunk.verdict(row, rows, key0 + key, width);
            const Verdict first = shared((row + offset) / kMaskRows, key, width);
            const Verdict last = shared((row + rows - 1 + offset) / kMaskRows, key, width);
            if (first == Verdict::some || last == Verdict::some) return chunk.verdict(row, rows, key0 + key, width);
            return first == last ? first : Verdict::some;
        }

        Verdict shared(int64_t part, int64_t key, int64_t width) {
            constexpr int64_t all = kSteps + kWides;
            const int64_t wide = kSteps + key / kWideKeys;
            const int64_t slot = width == count && count > kWideKeys ? all : width > kStepKeys ? wide : key / kStepKeys;
            const auto settles = [&](int64_t over) { return found[part][over] != 0 && found[part][over] != known(Verdict::some); };
            if (settles(all)) return verdict_of(found[part][all]);
            if (slot != all && settles(wide)) return verdict_of(found[part][wide]);
            if (found[part][slot] == 0) {
                const int64_t first = part * kMaskRows - offset, begin = first < 0 ? 0 : first;
                const int64_t end = first + kMaskRows < chunk.num_rows ? first + kMaskRows : chunk.num_rows;
                found[part][slot] = known(chunk.verdict(begin, end - begin, key0 + key, width));
            }
            return verdict_of(found[part][slot]);
        }
        static uint8_t known(Verdict of) { return static_cast<uint8_t>(1 + static_cast<int>(of)); }
        static Verdict verdict_of(uint8_t known) { return static_cast<Verdict>(known - 1); }

        // Of what a group keeps in part: where rows on one side of an edge of kMaskRows keep all, those on the other nothing.
        void find_edge(int64_t row, int64_t rows, Kept& kept) {
            const int64_t first = (row + offset) / kMaskRows, last = (row + rows - 1 + offset) / kMaskRows;
            if (kept.partial == 0 || first == last || chunk.num_rows <= kMaskRows) return;
            kept.edge = static_cast<int>(last * kMaskRows - offset - row);
            for (int64_t key = kept.first; key < kept.last; key += kStepKeys) {
                const uint32_t bit = uint32_t{1} << key / kStepKeys;
                if (!(kept.partial & bit)) continue;
                const int64_t width = count - key < kStepKeys ? count - key : kStepKeys;
                const Verdict before = shared(first, key, width), after = shared(last, key, width);
                if (before == Verdict::all && after == Verdict::none) kept.above |= bit;
                if (before == Verdict::none && after == Verdict::all) kept.below |= bit;
            }
        }
    };

    // How many rows of a run of kMaskRows stand before the chunk, as they are counted within the last row axis.
    int64_t mask_offset() const {
        const int64_t run = call.rows.count ? call.rows.size[call.rows.count - 1] : 1;
        return row0 % run % kMaskRows;
    }

    void block(int64_t key0, int64_t count, bool whole) {
        const bool in_place = reads_in_place(whole);
        Kept kept[kMostChunkRows / kGroupRows];
        Verdicts verdicts(*this, key0, count);
        int64_t low = count, high = 0;  // of all groups
        for (int64_t row = 0; row < num_rows; row += group_size) {
            Kept& of = kept[row / group_size];
            const auto ask = [&](int64_t key, int64_t width) { return verdicts.ask(row, group_rows(row), key, width); };
            of = kept_stretch(ask, count, whole);
            if (!of.any()) continue;
            verdicts.find_edge(row, group_rows(row), of);
            low = of.first < low ? of.first : low;
            high = of.last > high ? of.last : high;
        }
        if (low >= high) return;
        bool finite = !segment.coded || load_codes(key0, count);
        packed_from = low / kCols<T> * kCols<T>, num_packed = high - packed_from;
        if (!in_place) finite &= pack(key0);
        for (int64_t row = 0; row < num_rows; row += group_size) {
            const Kept& of = kept[row / group_size];
            if (of.any()) group(row, group_rows(row), key0, count, of, in_place, finite);
        }
    }

    int group_rows(int64_t row) const { return static_cast<int>(num_rows - row < group_size ? num_rows - row : group_size); }

    // Packs what some group keeps of the block; returns whether every element of these values is finite. Memory is asked
    // meanwhile: for values while keys are packed, and while values are for the keys of the next block.
    bool pack(int64_t key0) {
        bool finite = true;
        const auto go = [&]<class E>(E) QKV_LAMBDA {
            constexpr int64_t Size = sizeof(E);
            const int64_t key_bytes = d * Size, value_bytes = call.value_size * Size;
            const auto key_at = [&](int64_t n) {
                ask_for(value_of(key0, packed_from + n), value_bytes);
                return static_cast<const E*>(key_of(key0, packed_from + n));
            };
            const auto value_at = [&](int64_t n) {
                const int64_t next = key0 + packed_from + n + kBlockKeys;
                if (next < num_keys) ask_for(segment.keys.at(next), key_bytes);
                return static_cast<const E*>(value_of(key0, packed_from + n));
            };
            if constexpr (kHasPairs && sizeof(E) == 2 && sizeof(T) == 4) {
                if (paired) {
                    const int64_t room = rounded_up(num_packed, kPairStep);
                    any_odd_key = pack_pairs_across(key_at, num_packed, room, d, segment.k_last, work.k_pairs, work.odd_keys);
                    finite = pack_pairs_along(value_at, num_packed, room, call.value_size, segment.v_last, work.v_pairs);
                    return;
                }
            }
            pack_across<T, E>(key_at, num_packed, d, segment.k_last, work.k);
            finite = pack_along<T, E, true>(value_at, num_packed, num_packed, call.value_size, segment.v_last, T(1), work.v);
        };
        by_key_element<T>(segment.element, go);
        return finite;
    }

    // The scales of a block, and its half bytes as bytes; returns whether every scale of a value is finite.
    bool load_codes(int64_t key0, int64_t count) {
        const Placement& placed = call.placed;
        const Source k_scale(call, placed.k_scale, Element::f32, placed.k_scale_page, shared);
        const Source v_scale(call, placed.v_scale, Element::f32, placed.v_scale_page, shared);
        for (int64_t n = 0, run; n < count; n += run) {
            run = segment.keys.together(key0 + n);
            if (count - n < run) run = count - n;
            const auto* k_from = static_cast<const float*>(k_scale.at(key0 + n));
            const auto* v_from = static_cast<const float*>(v_scale.at(key0 + n));
            for (int64_t m = 0; m < run; ++m) work.k_scales[n + m] = k_from[m * placed.k_scale.item[0]];
            for (int64_t m = 0; m < run; ++m) work.v_scales[n + m] = v_from[m * placed.v_scale.item[0]];
        }
        float odd = 0;
        for (int64_t n = 0; n < count; ++n) odd += work.v_scales[n] * 0;
        if (segment.opened) {
            for (int64_t n = 0; n < count; ++n) {
                open_codes(static_cast<const uint8_t*>(segment.keys.at(key0 + n)), d, work.k_codes + n * code_bytes(d));
                open_codes(static_cast<const uint8_t*>(segment.values.at(key0 + n)), call.value_size,
                           work.v_codes + n * code_bytes(call.value_size));
            }
        }
        return odd == 0;
    }

    void scale_scores(int rows, int64_t first, int64_t last) {
        for (int r = 0; r < rows; ++r)
            for (int64_t n = first; n < last; ++n) work.s[r * kBlockKeys + n] *= work.k_scales[n];
    }

    // Weights, of which sums are no longer taken, times the scales of their values.
    void scale_weights(int rows, int64_t first, int64_t last, bool finite) {
        for (int r = 0; r < rows; ++r) {
            T* s = work.s + r * kBlockKeys;
            if (finite)
                for (int64_t n = first; n < last; ++n) s[n] *= work.v_scales[n];
            else
                for (int64_t n = first; n < last; ++n) s[n] = work.keeps[r * kBlockKeys + n] ? s[n] * work.v_scales[n] : T(0);
        }
    }

    // A block's items, which lie a step apart.
    template <class E> QKV_INLINE Line<const E> key_line(int64_t key0) const {
        return {static_cast<const E*>(key_of(key0, 0)), segment.opened ? code_bytes(d) : segment.k_item};
    }
    template <class E> QKV_INLINE Line<const E> value_line(int64_t key0) const {
        return {static_cast<const E*>(value_of(key0, 0)), segment.opened ? code_bytes(call.value_size) : segment.v_item};
    }

    void group(int64_t row, int rows, int64_t key0, int64_t count, const Kept& kept, bool in_place, bool finite) {
        const int64_t first = kept.first, last = kept.last;
        const int tiles = (rows + kBlockRows - 1) / kBlockRows;
        const int64_t left = first / kCols<T> * kCols<T>, right = rounded_up(last, kCols<T>);
        if (in_place) {
            const auto go = [&]<class E>(E) QKV_LAMBDA {
                scores_in_place<T, E>(work.q + row * d, rows, d, key_line<E>(key0), value_line<E>(key0), count, segment.k_last,
                                      work.s, kBlockKeys);
            };
            by_key_element<T>(segment.element, go);
        } else if (paired) {
            if constexpr (kHasPairs && sizeof(T) == 4) pair_scores(row, rows, key0, left, right);
        } else {
            for (int64_t column = left; column < right; column += kCols<T>)
                for (int tile = 0; tile < tiles; ++tile)
                    product<T>(d, work.q + (row + tile * kBlockRows) * d, d, 1, work.k + (column - packed_from) * d,
                               work.s + tile * kBlockRows * kBlockKeys + column, kBlockKeys);
        }
        const T none = -static_cast<T>(__builtin_inff());
        if (segment.coded) scale_scores(rows, first, last);
        if (call.scored || !kept.whole)
            change_scores<T>(call, {terms_shared(), row0 + row, rows, key0, count}, kept, work.s, kBlockKeys, work.terms);
        for (int r = 0; r < rows; ++r) {
            for (int64_t n = left; n < first; ++n) work.s[r * kBlockKeys + n] = none;
            for (int64_t n = last; n < right; ++n) work.s[r * kBlockKeys + n] = none;
        }
        if (!finite) note_kept(rows, first, last);
        if (call.weighing == Weighing::sigmoid)
            fold_sigmoid<T>(work.rows, row, rows, work.s, kBlockKeys, left, right, key0, static_cast<T>(call.bias),
                            how.place, work.shrink);
        else
            fold<T>(work.rows, row, rows, work.s, kBlockKeys, left, right, key0, call.scored ? T(1) : left_over, how, work.shrink);
        for (int r = rows; r < group_size; ++r) work.shrink[r] = T(0);
        if (call.dropout > 0) drop_weights(row, rows, key0, first, last);
        if (call.num_buckets) add_buckets(row, rows, key0, first, last);
        if (segment.coded) scale_weights(rows, first, last, finite);
        if (in_place) {
            const void* next = segment.keys.at(key0 + count < num_keys ? key0 + count : key0);
            const auto go = [&]<class E>(E) QKV_LAMBDA {
                values_in_place<T, E>(work.s, kBlockKeys, work.shrink, rows, value_line<E>(key0), count, call.value_size,
                                      segment.v_last, work.sums + row * e, e, next);
            };
            by_key_element<T>(segment.element, go);
            return;
        }
        // Rows past the last one hold scores of queries that are 0; their sums are never read.
        if (paired) {
            if constexpr (kHasPairs && sizeof(T) == 4) pair_sums(row, rows, left, right);
        } else {
            for (int64_t panel = 0; panel < e; panel += kCols<T>)
                for (int tile = 0; tile < tiles; ++tile)
                    rescaled_product<T>(last - first, work.s + tile * kBlockRows * kBlockKeys + first, kBlockKeys, 1,
                                        work.v + panel * num_packed + (first - packed_from) * kCols<T>,
                                        work.sums + (row + tile * kBlockRows) * e + panel, e,
                                        work.shrink + tile * kBlockRows);
        }
        if (!segment.coded && !finite) add_odd(row, rows, key0, first, last);
    }

    // A factor in two: a power of two that queries can carry, as it is given back, and the rest, which is left over.
    T split_factor(T factor) {
        int exponent = 0;
        const T size = __builtin_frexp(factor < T(0) ? -factor : factor, &exponent);
        if (!(size > T(0)) || size - size != T(0)) return factor;
        exponent = exponent > 1 ? 0 : exponent < -120 ? -120 : exponent - 1;  // a query must not become infinite or subnormal
        const T power = static_cast<T>(__builtin_ldexp(1.0, exponent));
        left_over = (factor < T(0) ? -factor : factor) / power;
        return factor < T(0) ? -power : power;
    }

    // Queries as bfloat16: what they are times a power of two, which rounds nothing but what becomes subnormal.
    void pair_queries(int64_t all) {
        const int64_t depth = rounded_up(d, kPairStep);
        memset(work.q_pairs, 0, 2 * all * depth);
        for (int64_t n = 0; n < num_rows; ++n) {
            const float* q = work.q + n * d;
            uint16_t* to = work.q_pairs + n * depth;
            vi tiny = {};
            int64_t f = 0;
            for (; f + 2 * kLanes <= d; f += 2 * kLanes) {
                const vf low = load<float>(q + f), high = load<float>(q + f + kLanes);
                tiny |= is_subnormal(low) | is_subnormal(high);
                narrow_pairs(to + f, low, high);
            }
            int32_t odd = sum_lanes<int32_t>(tiny);
            for (; f < d; ++f) {
                to[f] = narrowed<BF16>(q[f]).bits;
                odd |= q[f] != 0.0f && (to[f] & 0x7fffu) < kPairNormal;
            }
            work.odd_rows[n] = odd != 0;
        }
    }

    void pair_scores(int64_t row, int rows, int64_t key0, int64_t left, int64_t right) {
        const int64_t depth = rounded_up(d, kPairStep);
        for (int64_t column = left; column < right; column += 2 * kPairCols) {
            const uint16_t *a = work.q_pairs + row * depth, *b = work.k_pairs + (column - packed_from) * depth;
            if (rows > kPairRows / 2)
                pair_product<true>(depth, a, depth, b, kPairCols * depth, work.s + column, kBlockKeys);
            else
                pair_product<false>(depth, a, depth, b, kPairCols * depth, work.s + column, kBlockKeys);
        }
        bool any = any_odd_key;
        for (int r = 0; r < rows; ++r) any |= work.odd_rows[row + r] != 0;
        if (any) score_odd(row, rows, key0);
        if (call.scored || call.weighing == Weighing::sigmoid)
            for (int r = 0; r < rows; ++r)
                for (int64_t n = left; n < right; ++n) work.s[r * kBlockKeys + n] *= left_over;
    }

    // Scores of rows and keys that products of pairs take for 0 in part, one by one.
    void score_odd(int64_t row, int rows, int64_t key0) {
        for (int64_t n = 0; n < num_packed; ++n) {
            const auto* key = static_cast<const BF16*>(key_of(key0, packed_from + n));
            for (int r = 0; r < rows; ++r) {
                if (!work.odd_keys[n] && !work.odd_rows[row + r]) continue;
                const T* q = work.q + (row + r) * d;
                T sum = T(0);
                for (int64_t f = 0; f < d; ++f) sum += q[f] * static_cast<T>(widened(key[f * segment.k_last]));
                work.s[r * kBlockKeys + packed_from + n] = sum;
            }
        }
    }

    void pair_sums(int64_t row, int rows, int64_t left, int64_t right) {
        const bool two = rows > kPairRows / 2;
        const int all = two ? kPairRows : kPairRows / 2;
        for (int r = 0; r < all; ++r) {
            for (int64_t n = left; n < right; n += 2 * kLanes)
                narrow_pairs(work.weights + r * kWeightStep + n, load<float>(work.s + r * kBlockKeys + n),
                             load<float>(work.s + r * kBlockKeys + n + kLanes));
        }
        const int64_t room = rounded_up(num_packed, kPairStep);
        for (int64_t f = 0; f < e; f += 2 * kPairCols) {
            const uint16_t *a = work.weights + left, *b = work.v_pairs + f * room + (left - packed_from) * kPairCols;
            // Apart from the sums so far: what is subnormal there, such products would take for 0.
            alignas(64) T part[kPairRows * 2 * kPairCols];
            if (two)
                pair_product<true>(right - left, a, kWeightStep, b, kPairCols * room, part, 2 * kPairCols);
            else
                pair_product<false>(right - left, a, kWeightStep, b, kPairCols * room, part, 2 * kPairCols);
            for (int r = 0; r < all; ++r) {
                T* sums = work.sums + (row + r) * e + f;
                const vf factor = splat<float>(work.shrink[r]);
                for (int n = 0; n < 2 * kPairCols; n += kLanes)
                    store<float>(sums + n, load<float>(sums + n) * factor + load<float>(part + r * 2 * kPairCols + n));
            }
        }
    }

    void note_kept(int rows, int64_t first, int64_t last) {
        for (int r = 0; r < rows; ++r)
            for (int64_t n = first; n < last; ++n)
                work.keeps[r * kBlockKeys + n] = !(work.s[r * kBlockKeys + n] == -static_cast<T>(__builtin_inff()));
    }

    // Whether packing kept a value as it is.
    QKV_INLINE bool is_packed(T x) const {
        if (x - x != T(0)) return false;
        const T size = x < T(0) ? -x : x;
        return !paired || size == T(0) || size >= static_cast<T>(0x1p-100);
    }

    // Values left out when V was packed (not finite, or too small for pairs) reach the rows that keep their key as
    // arithmetic has it.
    void add_odd(int64_t row, int rows, int64_t key0, int64_t first, int64_t last) {
        constexpr int64_t kPart = 64;
        const int64_t step = segment.v_last * element_bytes(segment.element);
        T part[kPart];
        for (int64_t n = first; n < last; ++n) {
            const auto* value = static_cast<const char*>(segment.values.at(key0 + n));
            for (int64_t f = 0; f < call.value_size; ++f) {
                if (f % kPart == 0) {
                    const int64_t left = call.value_size - f;
                    read_features<T>(segment.element, value + f * step, left < kPart ? left : kPart, segment.v_last, T(1), part);
                }
                const T x = part[f % kPart];
                if (is_packed(x)) continue;
                for (int r = 0; r < rows; ++r)
                    if (work.keeps[r * kBlockKeys + n]) work.sums[(row + r) * e + f] += work.s[r * kBlockKeys + n] * x;
            }
        }
    }

    void drop_weights(int64_t row, int rows, int64_t key0, int64_t first, int64_t last) {
        for (int r = 0; r < rows; ++r)
            drop_row<T>(call, terms_shared(), row0 + row + r, key0 + first, last - first,
                        work.s + r * kBlockKeys + first);
    }

    void add_buckets(int64_t row, int rows, int64_t key0, int64_t first, int64_t last) {
        int32_t read[kBlockKeys];
        for (int r = 0; r < rows; ++r) {
            T* buckets = work.buckets + (row + r) * call.num_buckets;
            for (int64_t n = 0; n < call.num_buckets; ++n) buckets[n] *= work.shrink[r];
            const Place place{terms_shared(), row0 + row + r, 1, key0 + first, last - first};
            pair_rows(*call.terms, place, read, kBlockKeys, work.terms);
            for (int64_t n = first; n < last; ++n) buckets[read[n - first]] += work.s[r * kBlockKeys + n];
        }
    }

    void leave_sinks_out() {
        for (int64_t n = 0; n < num_rows; ++n) reset_row<T>(work.rows, n, nullptr, unit);
    }

    // One row's state and sums, into and out of the record of a split.
    void save(int64_t n, T* to) const {
        const RowState<T>& rows = work.rows;
        to[0] = rows.level[n], to[1] = rows.total[n], to[2] = rows.best[n], to[3] = rows.mass[n], to[4] = rows.moment[n];
        memcpy(to + RowState<T>::kFields, rows.where + n, 8);
        T* sums = to + RowState<T>::kFields + 8 / sizeof(T);
        memcpy(sums, work.sums + n * e, sizeof(T) * e);
        memcpy(sums + e, work.buckets + n * call.num_buckets, sizeof(T) * call.num_buckets);
    }

    void take(int64_t n, const T* from, bool is_first) {
        RowState<T>& rows = work.rows;
        const T none = -static_cast<T>(__builtin_inff());
        const T* sums = from + RowState<T>::kFields + 8 / sizeof(T);
        const bool weighed = call.weighing == Weighing::softmax;
        const T before = is_first ? none : rows.level[n], level = from[0] > before ? from[0] : before;
        const T base = level == none ? T(0) : level;
        const T old_part = !weighed ? T(1) : is_first ? T(0) : one_weight(before - base);
        const T new_part = !weighed ? T(1) : one_weight(from[0] - base);
        const T kept = is_first ? T(0) : rows.total[n], moment = is_first ? T(0) : rows.moment[n];
        const T mass = is_first ? T(0) : rows.mass[n];
        const T old_shift = before == none ? T(0) : before - base, new_shift = from[0] == none ? T(0) : from[0] - base;
        rows.total[n] = kept * old_part + from[1] * new_part;
        rows.moment[n] = (moment + mass * old_shift) * old_part + (from[4] + from[3] * new_shift) * new_part;
        rows.mass[n] = mass * old_part + from[3] * new_part;
        rows.level[n] = level;
        if (is_first || from[2] > rows.best[n] || (from[2] != from[2] && rows.best[n] == rows.best[n])) {
            rows.best[n] = from[2];
            memcpy(rows.where + n, from + RowState<T>::kFields, 8);
        }
        for (int64_t f = 0; f < e; ++f) work.sums[n * e + f] = add_parts(work.sums[n * e + f], old_part, sums[f], new_part, is_first);
        T* buckets = work.buckets + n * call.num_buckets;
        for (int64_t m = 0; m < call.num_buckets; ++m)
            buckets[m] = add_parts(buckets[m], old_part, sums[e + m], new_part, is_first);
    }

    static T add_parts(T a, T a_part, T b, T b_part, bool is_first) {
        return is_first ? b * b_part : a * a_part + b * b_part;
    }

    T one_weight(T below) const {
        const Vec<T> x = splat<T>(below);
        return (how.powers_of_two ? power_of_two(x) : exponential(x))[0];
    }

    // The results of all rows, from their sums.
    void finish() const {
        const RowState<T>& rows = work.rows;
        const T none = -static_cast<T>(__builtin_inff());
        const T back = how.powers_of_two ? static_cast<T>(kLn2) : T(1);
        const bool divide = call.weighing == Weighing::softmax;
        for (int64_t n = 0; n < num_rows; ++n) {
            const bool dead = is_dead<T>(rows, n);
            const T total = rows.total[n];
            const T factor = !divide ? T(1) : dead ? T(0) : T(1) / total;
            if (divide && dead) memset(work.sums + n * e, 0, sizeof(T) * e);
            void* out = item_at(call, call.rows, call.out, call.out_element, shared, row0 + n);
            write_features<T>(call.out_element, work.sums + n * e, call.value_size, factor, out, call.out.last);
            if (call.lse.data)
                *Items<T>(call, call.rows, call.lse, shared, row0 + n)(0) =
                    dead ? none : rows.level[n] * back + natural_log(total);
            if (call.level.data) *Items<T>(call, call.rows, call.level, shared, row0 + n)(0) = rows.best[n] * back;
            if (call.argmax.data)
                *Items<int64_t>(call, call.rows, call.argmax, shared, row0 + n)(0) = rows.where[n];
            if (call.entropy.data) {
                // log(total) and the mean score below the level: nearly equal numbers are never subtracted
                const T safe = dead ? T(1) : total;
                const T spread = (rows.mass[n] * natural_log(safe) - rows.moment[n] * back) / safe;
                *Items<T>(call, call.rows, call.entropy, shared, row0 + n)(0) = dead ? T(0) : spread;
            }
            if (call.num_buckets) {
                const Items<T> all(call, call.rows, call.buckets, shared, row0 + n);
                for (int64_t m = 0; m < call.num_buckets; ++m)
                    all(0)[m * call.buckets.last] = work.buckets[n * call.num_buckets + m] * factor;
            }
        }
    }
};

}  // namespace qkv::QKV_TARGET
