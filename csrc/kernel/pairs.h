// Products of bfloat16 numbers in pairs, as processors with instructions for them have it: C = A B in floats.
//
// A is [row][depth] as it comes. B lies in panels of kPairCols columns, [panel][pair][column][2]: the two numbers of a
// pair are neighbours along the depth. Depths are whole steps of kPairStep, filled up with 0. A product is exact and sums
// are floats, in the order of the depth; but what is subnormal counts as 0, factor and result alike. So whoever packs
// notes such numbers, and whoever multiplies adds what they should have given. Refuses to know what the matrices mean.
#pragma once

#include "gemm.h"

namespace qkv::QKV_TARGET {

constexpr int kPairCols = 16;
constexpr int kPairStep = 32;       // numbers of one step along the depth
constexpr int kPairRows = 32;       // rows of a group: two tiles
constexpr int64_t kPairPanel = 2 * kPairCols;  // numbers of a panel for each pair

using vh = VectorOf<uint16_t, 2 * kLanes>::type;

#if defined(QKV_PAIRS)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

#if defined(__AMX_BF16__)
// The tiles of a thread while it lives: 0 to 3 hold sums, 4 and 5 rows of A, 6 and 7 pairs of B.
class Tiles {
    struct alignas(64) Shape {
        uint8_t palette = 1, start = 0, unused[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    };
    const bool wanted;

  public:
    explicit Tiles(bool want) : wanted(want) {
        if (!wanted) return;
        Shape shape;
        for (int n = 0; n < 8; ++n) shape.row_bytes[n] = 64, shape.rows[n] = 16;
        _tile_loadconfig(&shape);
    }
    ~Tiles() {
        if (wanted) _tile_release();
    }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

// C = A B for 16 or 32 rows and 32 columns. Steps of rows and panels count numbers.
template <bool Two>
static void pair_product(int64_t depth, const uint16_t* a, int64_t a_row, const uint16_t* b, int64_t b_panel, float* c,
                         int64_t c_row) {
    const int64_t a_bytes = a_row * 2, c_bytes = c_row * 4;
    float* lower = c + 16 * c_row;
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (Two) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < depth; k += kPairStep, a += kPairStep, b += kPairStep / 2 * kPairPanel) {
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + b_panel, 64);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (Two) {
            _tile_loadd(5, a + 16 * a_row, a_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
    if constexpr (Two) {
        _tile_stored(2, lower, c_bytes);
        _tile_stored(3, lower + 16, c_bytes);
    }
}

#else
class Tiles {
  public:
    explicit Tiles(bool) {}
};
#endif

#if defined(QKV_PAIRS) && !defined(__AMX_BF16__)
// sum + x y for 16 pairs.
QKV_INLINE vf add_pairs(vf sum, vu x, vu y) {
#if defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
#else
    sum += bits_as<vf>(x << 16) * bits_as<vf>(y << 16);
    return sum + bits_as<vf>(x & 0xffff0000u) * bits_as<vf>(y & 0xffff0000u);
#endif
}

template <bool Two>
static void pair_product(int64_t depth, const uint16_t* a, int64_t a_row, const uint16_t* b, int64_t b_panel, float* c,
                         int64_t c_row) {
    constexpr int Rows = 8;
    for (int row = 0; row < (Two ? 32 : 16); row += Rows, a += Rows * a_row, c += Rows * c_row) {
        vf acc[Rows][2] = {};
        const uint16_t* right = b;
        for (int64_t k = 0; k < depth; k += 2, right += kPairPanel) {
            vu pairs[2];
            memcpy(pairs, right, sizeof pairs[0]);
            memcpy(pairs + 1, right + b_panel, sizeof pairs[1]);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                uint32_t left;
                memcpy(&left, a + r * a_row + k, sizeof left);
                const vu both = vu{} + left;
#pragma GCC unroll 2
                for (int n = 0; n < 2; ++n) acc[r][n] = add_pairs(acc[r][n], both, pairs[n]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
            for (int n = 0; n < 2; ++n) store<float>(c + r * c_row + n * kLanes, acc[r][n]);
    }
}
#endif

constexpr uint16_t kPairFinite = 0x7f80;    // magnitudes from here on are infinite or NaN
constexpr uint16_t kPairNormal = 0x0080;    // below are subnormals and 0
constexpr uint16_t kPairSafe = 27 << 7;     // 2^-100: below, times a weight, a product may be subnormal

// Whether a number, not 0, is smaller than a magnitude given as bits.
QKV_INLINE bool is_tiny(uint16_t x, uint16_t least) {
    const uint16_t size = x & 0x7fffu;
    return size != 0 && size < least;
}
QKV_INLINE vi is_subnormal(vf x) {
    const vu size = bits_as<vu>(x) & 0x7fffffffu;
    return (size != 0u) & (size < 0x800000u);
}

// Weights as bfloat16: two vectors of them.
QKV_INLINE void narrow_pairs(uint16_t* to, vf low, vf high) {
#if defined(__AVX512BF16__)
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    memcpy(to, &both, sizeof both);
#else
    const v16 parts[2] = {narrow_bf16(low), narrow_bf16(high)};
    memcpy(to, parts, sizeof parts);
#endif
}

#if defined(QKV_PAIRS)
// Keys packed for scores, `room` of them (a multiple of kPairCols), those past the last one 0; `odd[n]` says whether key
// n holds a subnormal number. Returns whether any does.
template <class At>
QKV_INLINE bool pack_pairs_across(At at, int64_t num_items, int64_t room, int64_t features, int64_t step, uint16_t* to,
                                  uint8_t* odd) {
    const int64_t depth = rounded_up(features, kPairStep);
    bool any = false;
    for (int64_t first = 0; first < room; first += kPairCols, to += depth * kPairCols) {
        const uint16_t* from[kPairCols];
        const int64_t left = num_items - first;
        const int count = left < 0 ? 0 : left < kPairCols ? static_cast<int>(left) : kPairCols;
        for (int n = 0; n < count; ++n) from[n] = reinterpret_cast<const uint16_t*>(at(first + n));
        vh tiny[kPairCols] = {};
        int64_t f = 0;
        if (step == 1) {
            for (; f + kPairStep <= features; f += kPairStep) {
                vf x[kPairCols];
#pragma GCC unroll 16
                for (int n = 0; n < kPairCols; ++n) {
                    vh row = {};
                    if (n < count) memcpy(&row, from[n] + f, sizeof row);
                    const vh size = row & 0x7fff;
                    tiny[n] |= bits_as<vh>(size - 1 < static_cast<uint16_t>(kPairNormal - 1));
                    x[n] = bits_as<vf>(row);
                }
                transpose<float>(x);
#pragma GCC unroll 16
                for (int n = 0; n < kPairCols; ++n) store<float>(reinterpret_cast<float*>(to + (f / 2 + n) * kPairPanel), x[n]);
            }
        }
        const vh none = {};
        for (int n = 0; n < count; ++n) odd[first + n] = memcmp(&tiny[n], &none, sizeof none) != 0;
        for (; f < depth; ++f) {
            for (int n = 0; n < kPairCols; ++n) {
                const uint16_t x = n < count && f < features ? from[n][f * step] : uint16_t(0);
                to[f / 2 * kPairPanel + 2 * n + f % 2] = x;
                if (n < count && is_tiny(x, kPairNormal)) odd[first + n] = 1;
            }
        }
        for (int n = 0; n < count; ++n) any |= odd[first + n] != 0;
    }
    return any;
}

// Values packed for sums, `room` items of them (a multiple of kPairStep), what is odd as 0. Returns whether none was.
template <class At>
QKV_INLINE bool pack_pairs_along(At at, int64_t num_items, int64_t room, int64_t features, int64_t step, uint16_t* to) {
    const int64_t panels = rounded_up(features, 2 * kPairCols) / kPairCols;
    vu odd = {};
    for (int64_t n = 0; n < room; n += 2) {
        const auto* even = n < num_items ? reinterpret_cast<const uint16_t*>(at(n)) : nullptr;
        const auto* next = n + 1 < num_items ? reinterpret_cast<const uint16_t*>(at(n + 1)) : nullptr;
        for (int64_t panel = 0; panel < panels; ++panel) {
            const int64_t f = panel * kPairCols;
            const auto read = [&](const uint16_t* from) QKV_LAMBDA {
                v16 raw = {};
                if (from && step == 1 && f + kPairCols <= features)
                    memcpy(&raw, from + f, sizeof raw);
                else if (from)
                    for (int m = 0; m < kPairCols; ++m)
                        if (f + m < features) raw[m] = from[(f + m) * step];
                const vu wide = __builtin_convertvector(raw, vu), size = wide & 0x7fffu;
                // 0 and what is neither tiny nor too large: its magnitude less the least, without a sign, is in reach.
                const vu bad = bits_as<vu>((size - kPairSafe >= static_cast<uint32_t>(kPairFinite - kPairSafe)) & (size != 0u));
                odd |= bad;
                return wide & ~bad;
            };
            const vu both = read(even) | read(next) << 16;
            memcpy(to + (panel * room + n) * kPairCols, &both, sizeof both);
        }
    }
    vu none = {};
    return memcmp(&odd, &none, sizeof none) == 0;
}
#endif

}  // namespace qkv::QKV_TARGET
