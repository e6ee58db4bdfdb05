// Programs run over tiles: what a mask and a score function do to the scores of a place, forward and backward.
//
// Every operation is a loop over strips, written once as what it does to one element; the compiler makes vectors of
// it. Refuses to know how programs are made and what the scores are for.
#pragma once

#include <stdint.h>
#include <string.h>

#include "apply.h"
#include "math.h"
#include "vec.h"

namespace qkv::QKV_TARGET {

using StripFunction = void (*)(int64_t n, void* out, const void* a, const void* b, const void* c);

namespace strips {

// An operation of up to three operands: types, and its value for one element.
template <class Out, class A, class B = A, class C = B> struct Typed {
    using R = Out;
    using X = A;
    using Y = B;
    using Z = C;
};

// Whole numbers wrap around, as tensors' do.
template <class T> struct Unsigned { using type = T; };
template <> struct Unsigned<int32_t> { using type = uint32_t; };
template <> struct Unsigned<int64_t> { using type = uint64_t; };
template <class T> using U = typename Unsigned<T>::type;

template <class T> constexpr bool is_real = false;
template <> constexpr bool is_real<float> = true;
template <> constexpr bool is_real<double> = true;

QKV_INLINE float trunc_remainder(float a, float b) { return __builtin_fmodf(a, b); }
QKV_INLINE double trunc_remainder(double a, double b) { return __builtin_fmod(a, b); }
QKV_INLINE float down(float x) { return __builtin_floorf(x); }
QKV_INLINE double down(double x) { return __builtin_floor(x); }

template <class T> QKV_INLINE T divided_down(T a, T b) {
    if constexpr (is_real<T>) {
        if (b == 0) return a / b;
        const T rest = trunc_remainder(a, b);
        T quotient = (a - rest) / b;
        if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1;
        if (quotient == 0) return sizeof(T) == 4 ? (T)__builtin_copysignf(0.0f, (float)(a / b)) : (T)__builtin_copysign(0.0, (double)(a / b));
        T whole = down(quotient);
        return quotient - whole > T(0.5) ? whole + 1 : whole;
    } else if constexpr (sizeof(T) == 4) {
        // exact: the quotient of two such numbers is either whole or further from a whole number than double rounds
        const T safe = b == 0 ? 1 : b;
        const double quotient = __builtin_floor(static_cast<double>(a) / static_cast<double>(safe));
        return b == 0 ? 0 : static_cast<T>(quotient);
    } else {
        if (b == 0) return 0;
        if (b == -1) return static_cast<T>(0 - static_cast<U<T>>(a));
        const T quotient = a / b;
        return quotient - (a % b != 0 && ((a < 0) != (b < 0)));
    }
}

template <class T> QKV_INLINE T remainder_down(T a, T b) {
    if constexpr (is_real<T>) {
        T rest = trunc_remainder(a, b);
        if (rest != 0 && (b < 0) != (rest < 0)) rest += b;
        return rest;
    } else {
        return static_cast<T>(static_cast<U<T>>(a) - static_cast<U<T>>(divided_down(a, b)) * static_cast<U<T>>(b));
    }
}

#define QKV_OPERATION(name, arity_, R, A, B, C, value)                                            \
    struct name : Typed<R, A, B, C> {                                                             \
        static constexpr int arity = arity_;                                                      \
        static QKV_INLINE R at([[maybe_unused]] A a, [[maybe_unused]] B b, [[maybe_unused]] C c) { return value; } \
    };
#define QKV_BINARY(name, T, value) QKV_OPERATION(name, 2, T, T, T, T, value)
#define QKV_COMPARE(name, T, value) QKV_OPERATION(name, 2, int32_t, T, T, T, (value) ? -1 : 0)
#define QKV_UNARY(name, R, T, value) QKV_OPERATION(name, 1, R, T, T, T, value)

#define QKV_EVERY(s, T)                                                             \
    QKV_BINARY(add_##s, T, static_cast<T>(static_cast<U<T>>(a) + static_cast<U<T>>(b)))  \
    QKV_BINARY(sub_##s, T, static_cast<T>(static_cast<U<T>>(a) - static_cast<U<T>>(b)))  \
    QKV_BINARY(mul_##s, T, static_cast<T>(static_cast<U<T>>(a) * static_cast<U<T>>(b)))  \
    QKV_BINARY(floordiv_##s, T, divided_down(a, b))                                 \
    QKV_BINARY(mod_##s, T, remainder_down(a, b))                                    \
    QKV_BINARY(min_##s, T, a < b || a != a ? a : b)                                 \
    QKV_BINARY(max_##s, T, a > b || a != a ? a : b)                                 \
    QKV_COMPARE(lt_##s, T, a < b)                                                   \
    QKV_COMPARE(le_##s, T, a <= b)                                                  \
    QKV_COMPARE(eq_##s, T, a == b)                                                  \
    QKV_COMPARE(ne_##s, T, a != b)                                                  \
    QKV_UNARY(neg_##s, T, T, static_cast<T>(is_real<T> ? -static_cast<U<T>>(a) : 0 - static_cast<U<T>>(a))) \
    QKV_UNARY(truth_##s, int32_t, T, a != 0 ? -1 : 0)
QKV_EVERY(i, int32_t)
QKV_EVERY(l, int64_t)
QKV_EVERY(f, float)
QKV_EVERY(d, double)
QKV_UNARY(abs_i, int32_t, int32_t, static_cast<int32_t>(a < 0 ? 0 - static_cast<uint32_t>(a) : static_cast<uint32_t>(a)))
QKV_UNARY(abs_l, int64_t, int64_t, static_cast<int64_t>(a < 0 ? 0 - static_cast<uint64_t>(a) : static_cast<uint64_t>(a)))
QKV_UNARY(abs_f, float, float, __builtin_fabsf(a))
QKV_UNARY(abs_d, double, double, __builtin_fabs(a))
QKV_BINARY(div_f, float, a / b)
QKV_BINARY(div_d, double, a / b)
QKV_UNARY(sqrt_f, float, float, __builtin_sqrtf(a))
QKV_UNARY(sqrt_d, double, double, __builtin_sqrt(a))

// The library's functions, one number after the other.
QKV_UNARY(log_d, double, double, __builtin_log(a))
QKV_UNARY(erf_d, double, double, __builtin_erf(a))
QKV_UNARY(sin_d, double, double, __builtin_sin(a))
QKV_UNARY(cos_d, double, double, __builtin_cos(a))
QKV_UNARY(exp_d, double, double, __builtin_exp(a))
QKV_UNARY(tanh_d, double, double, __builtin_tanh(a))
QKV_UNARY(sigmoid_d, double, double, 1 / (1 + __builtin_exp(-a)))
QKV_BINARY(pow_d, double, __builtin_pow(a, b))

// Whole numbers that a float cannot be become the lowest one, as the processor's conversion has it.
template <class T> QKV_INLINE int64_t floored(T x) {
    const T low = down(x);
    return low >= T(-9223372036854775808.0) && low < T(9223372036854775808.0) ? static_cast<int64_t>(low) : INT64_MIN;
}
QKV_UNARY(floor_f, int64_t, float, floored(a))
QKV_UNARY(floor_d, int64_t, double, floored(a))

QKV_INLINE int64_t whole_power(int64_t base, int64_t exponent) {
    uint64_t out = 1, factor = static_cast<uint64_t>(base);
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1) out *= factor;
        factor *= factor;
    }
    return static_cast<int64_t>(out);
}
QKV_BINARY(power_l, int64_t, whole_power(a, b))

QKV_BINARY(and_b, int32_t, a & b)
QKV_BINARY(or_b, int32_t, a | b)
QKV_BINARY(xor_b, int32_t, a ^ b)
QKV_UNARY(not_b, int32_t, int32_t, ~a)
QKV_UNARY(b_to_i, int32_t, int32_t, a & 1)
QKV_UNARY(b_to_l, int64_t, int32_t, a & 1)
QKV_UNARY(b_to_f, float, int32_t, static_cast<float>(a & 1))
QKV_UNARY(b_to_d, double, int32_t, static_cast<double>(a & 1))
QKV_UNARY(i_to_l, int64_t, int32_t, a)
QKV_UNARY(i_to_f, float, int32_t, static_cast<float>(a))
QKV_UNARY(i_to_d, double, int32_t, static_cast<double>(a))
QKV_UNARY(l_to_i, int32_t, int64_t, static_cast<int32_t>(a))
QKV_UNARY(l_to_f, float, int64_t, static_cast<float>(a))
QKV_UNARY(l_to_d, double, int64_t, static_cast<double>(a))
QKV_OPERATION(select_4, 3, int32_t, int32_t, int32_t, int32_t, a ? b : c)
QKV_OPERATION(select_8, 3, int64_t, int32_t, int64_t, int64_t, a ? b : c)

// Strips of one program share memory, and a float's is read as its bits: nothing may be assumed of types.
template <class T> struct Any { typedef T type __attribute__((may_alias)); };
template <class T> using Alias = typename Any<T>::type;

template <class S, int shape> void each(int64_t n, void* out, const void* a, const void* b, const void* c) {
    auto* to = static_cast<Alias<typename S::R>*>(out);
    const auto* x = static_cast<const Alias<typename S::X>*>(a);
    const auto* y = static_cast<const Alias<typename S::Y>*>(b);
    const auto* z = static_cast<const Alias<typename S::Z>*>(c);
    typename S::X one_x{};
    typename S::Y one_y{};
    typename S::Z one_z{};
    if constexpr (shape & 1) one_x = x[0];
    if constexpr (shape & 2) one_y = y[0];
    if constexpr (shape & 4) one_z = z[0];
    (void)y, (void)z, (void)one_x, (void)one_y, (void)one_z;
    // an operand may lie where the result goes, element for element
#pragma GCC ivdep
    for (int64_t k = 0; k < n; ++k) {
        typename S::X p = one_x;
        typename S::Y q = one_y;
        typename S::Z r = one_z;
        if constexpr (!(shape & 1)) p = x[k];
        if constexpr (S::arity > 1 && !(shape & 2)) q = y[k];
        if constexpr (S::arity > 2 && !(shape & 4)) r = z[k];
        to[k] = S::at(p, q, r);
    }
}

// A function that is written on vectors.
template <vf (*function)(vf)> void along(int64_t n, void* out, const void* a, const void*, const void*) {
    auto* to = static_cast<float*>(out);
    const auto* x = static_cast<const float*>(a);
    int64_t k = 0;
    for (; k + kLanes <= n; k += kLanes) store<float>(to + k, function(load(x + k)));
    if (k < n) {
        const unsigned long rest = static_cast<unsigned long>(n - k) * sizeof(float);
        vf part{};
        memcpy(&part, x + k, rest);
        part = function(part);
        memcpy(to + k, &part, rest);
    }
}

// Powers of floats: most have a base above 0; where it is not, or a number is not finite, the library is asked.
QKV_INLINE bool plain_power(float x, float y) {
    constexpr float largest = 3.402823466e+38f;
    return x > 0 && x <= largest && y >= -largest && y <= largest;
}

template <int shape> void powers(int64_t n, void* out, const void* a, const void* b, const void*) {
    constexpr int64_t step = 64;
    auto* to = static_cast<float*>(out);
    const auto* x = static_cast<const float*>(a);
    const auto* y = static_cast<const float*>(b);
    float base[step], exponent[step];
    for (int64_t first = 0; first < n; first += step) {
        const int64_t count = n - first < step ? n - first : step;
        for (int64_t k = 0; k < count; ++k) base[k] = x[shape & 1 ? 0 : first + k];
        for (int64_t k = 0; k < count; ++k) exponent[k] = y[shape & 2 ? 0 : first + k];
        bool all = true;
        for (int64_t k = 0; k < count; ++k) all &= plain_power(base[k], exponent[k]);
        for (int64_t k = 0; k < count; ++k) to[first + k] = static_cast<float>(power_of(base[k], exponent[k]));
        if (all) continue;
        for (int64_t k = 0; k < count; ++k) {
            if (!plain_power(base[k], exponent[k])) to[first + k] = static_cast<float>(__builtin_pow(base[k], exponent[k]));
        }
    }
}

inline vf log_v(vf x) { return logarithm(x); }
inline vf sin_v(vf x) { return turned<0>(x); }
inline vf cos_v(vf x) { return turned<1>(x); }
inline vf erf_v(vf x) { return error_function(x); }
inline vf exp_v(vf x) { return exponential_anywhere(x); }
inline vf tanh_v(vf x) { return tanh_of(x); }
inline vf sigmoid_v(vf x) { return sigmoid_of(x); }

// Elements of a table as what a strip holds.
template <class R, class E> QKV_INLINE R element(E value) { return static_cast<R>(value); }
template <> QKV_INLINE float element<float, BF16>(BF16 value) { return widened(value); }
template <> QKV_INLINE float element<float, F16>(F16 value) { return widened(value); }
template <> QKV_INLINE double element<double, BF16>(BF16 value) { return widened(value); }
template <> QKV_INLINE double element<double, F16>(F16 value) { return widened(value); }
struct Boolean { uint8_t byte; };
template <> QKV_INLINE int32_t element<int32_t, Boolean>(Boolean value) { return value.byte ? -1 : 0; }

template <class R, class E> struct ReadByVectors { static constexpr bool value = false; };
template <> struct ReadByVectors<float, F16> { static constexpr bool value = true; };
template <> struct ReadByVectors<float, BF16> { static constexpr bool value = true; };

template <class R, class E> void line(int64_t n, void* out, const void* a, const void* b, const void* c) {
    const int64_t step = *static_cast<const int64_t*>(a), start = *static_cast<const int64_t*>(b);
    const auto* from = static_cast<const E*>(static_cast<const Table*>(c)->data) + start;
    auto* to = static_cast<Alias<R>*>(out);
    if constexpr (ReadByVectors<R, E>::value) {
        if (step == 1) {
            int64_t k = 0;
            for (; k + kLanes <= n; k += kLanes) store<float>(static_cast<float*>(out) + k, Read<float, E>::from(from + k));
            for (; k < n; ++k) to[k] = element<R, E>(from[k]);
            return;
        }
    }
    if (step == 1) {
#pragma GCC ivdep
        for (int64_t k = 0; k < n; ++k) to[k] = element<R, E>(from[k]);
    } else {
#pragma GCC ivdep
        for (int64_t k = 0; k < n; ++k) to[k] = element<R, E>(from[k * step]);
    }
}

template <class I, class R, class E> void gather(int64_t n, void* out, const void* a, const void* b, const void* c) {
    const auto* from = static_cast<const E*>(static_cast<const Table*>(c)->data) + *static_cast<const int64_t*>(b);
    const auto* at = static_cast<const Alias<I>*>(a);
    auto* to = static_cast<Alias<R>*>(out);
#pragma GCC ivdep
    for (int64_t k = 0; k < n; ++k) to[k] = element<R, E>(from[at[k]]);
}

template <class S, int shape> constexpr StripFunction pick() {
    constexpr int bits = (1 << S::arity) - 1;
    if constexpr ((shape & ~bits) != 0 || (shape == bits)) return nullptr;  // one number alone is no strip
    else return &each<S, shape>;
}

struct Shapes { StripFunction by_shape[8]; };

template <class S> constexpr Shapes shapes() {
    return {{pick<S, 0>(), pick<S, 1>(), pick<S, 2>(), pick<S, 3>(), pick<S, 4>(), pick<S, 5>(), pick<S, 6>(), pick<S, 7>()}};
}
constexpr Shapes always(StripFunction f) { return {{f, f, f, f, f, f, f, f}}; }

#define QKV_LOAD_SHAPES(name, R, E)                                              \
    inline constexpr Shapes line_##name##_shapes = always(&line<R, E>);             \
    inline constexpr Shapes gather_i_##name##_shapes = always(&gather<int32_t, R, E>); \
    inline constexpr Shapes gather_l_##name##_shapes = always(&gather<int64_t, R, E>);
QKV_LOAD_SHAPES(boolean_b, int32_t, Boolean)
QKV_LOAD_SHAPES(u8_i, int32_t, uint8_t)
QKV_LOAD_SHAPES(i8_i, int32_t, int8_t)
QKV_LOAD_SHAPES(i16_i, int32_t, int16_t)
QKV_LOAD_SHAPES(i32_i, int32_t, int32_t)
QKV_LOAD_SHAPES(i64_i, int32_t, int64_t)
QKV_LOAD_SHAPES(u8_l, int64_t, uint8_t)
QKV_LOAD_SHAPES(i8_l, int64_t, int8_t)
QKV_LOAD_SHAPES(i16_l, int64_t, int16_t)
QKV_LOAD_SHAPES(i32_l, int64_t, int32_t)
QKV_LOAD_SHAPES(i64_l, int64_t, int64_t)
QKV_LOAD_SHAPES(f32_f, float, float)
QKV_LOAD_SHAPES(f64_f, float, double)
QKV_LOAD_SHAPES(bf16_f, float, BF16)
QKV_LOAD_SHAPES(f16_f, float, F16)
QKV_LOAD_SHAPES(f32_d, double, float)
QKV_LOAD_SHAPES(f64_d, double, double)
QKV_LOAD_SHAPES(bf16_d, double, BF16)
QKV_LOAD_SHAPES(f16_d, double, F16)

#define QKV_SHAPES(name) inline constexpr Shapes name##_shapes = shapes<name>();
#define QKV_SHAPES_REAL(name) QKV_SHAPES(name##_f) QKV_SHAPES(name##_d)
#define QKV_SHAPES_ALL(name) QKV_SHAPES(name##_i) QKV_SHAPES(name##_l) QKV_SHAPES_REAL(name)
QKV_SHAPES_ALL(add) QKV_SHAPES_ALL(sub) QKV_SHAPES_ALL(mul) QKV_SHAPES_ALL(floordiv) QKV_SHAPES_ALL(mod)
QKV_SHAPES_ALL(min) QKV_SHAPES_ALL(max) QKV_SHAPES_ALL(lt) QKV_SHAPES_ALL(le) QKV_SHAPES_ALL(eq) QKV_SHAPES_ALL(ne)
QKV_SHAPES_ALL(neg) QKV_SHAPES_ALL(abs) QKV_SHAPES_ALL(truth) QKV_SHAPES_REAL(div) QKV_SHAPES_REAL(sqrt)
QKV_SHAPES(pow_d) QKV_SHAPES(log_d) QKV_SHAPES(erf_d) QKV_SHAPES(sin_d) QKV_SHAPES(cos_d)
QKV_SHAPES_REAL(floor) QKV_SHAPES(exp_d) QKV_SHAPES(tanh_d) QKV_SHAPES(sigmoid_d) QKV_SHAPES(power_l)
QKV_SHAPES(and_b) QKV_SHAPES(or_b) QKV_SHAPES(xor_b) QKV_SHAPES(not_b) QKV_SHAPES(b_to_i) QKV_SHAPES(b_to_l)
QKV_SHAPES(b_to_f) QKV_SHAPES(b_to_d) QKV_SHAPES(i_to_l) QKV_SHAPES(i_to_f) QKV_SHAPES(i_to_d) QKV_SHAPES(l_to_i)
QKV_SHAPES(l_to_f) QKV_SHAPES(l_to_d) QKV_SHAPES(select_4) QKV_SHAPES(select_8)
inline constexpr Shapes pow_f_shapes = {{&powers<0>, &powers<1>, &powers<2>, nullptr, nullptr, nullptr, nullptr, nullptr}};
inline constexpr Shapes log_f_shapes = always(&along<log_v>);
inline constexpr Shapes sin_f_shapes = always(&along<sin_v>);
inline constexpr Shapes cos_f_shapes = always(&along<cos_v>);
inline constexpr Shapes erf_f_shapes = always(&along<erf_v>);
inline constexpr Shapes exp_f_shapes = always(&along<exp_v>);
inline constexpr Shapes tanh_f_shapes = always(&along<tanh_v>);
inline constexpr Shapes sigmoid_f_shapes = always(&along<sigmoid_v>);

inline constexpr Shapes table[] = {
#define QKV_ROW(name) name##_shapes,
    QKV_STRIPS(QKV_ROW)
#undef QKV_ROW
};
static_assert(sizeof(table) / sizeof(table[0]) == static_cast<unsigned>(Strip::count));

}  // namespace strips

// One tile while its programs are run.
struct Tile {
    const Terms* terms;
    Place place;
    int64_t spread = 0;         // of row positions, where diagonals are used
    int64_t top = 0;            // the largest row position
    int32_t back[kTileRows];    // how far each row's position lies below it
};

QKV_INLINE int64_t flat_of(Role role, const Place& place) {
    return role == Role::shared ? place.shared : role == Role::row ? place.row0 : place.key0;
}

// Indices of a coordinate for flat indices that follow one another, plus an offset.
template <class T> inline void count_up(const Coordinate& coordinate, int64_t flat, int64_t offset, int64_t n, T* out) {
    int64_t index = flat / coordinate.divisor, within = flat - index * coordinate.divisor;
    index %= coordinate.size;
    if (coordinate.divisor == 1 && index + n <= coordinate.size) {
        const T first = static_cast<T>(index + offset);
        for (int64_t k = 0; k < n; ++k) out[k] = static_cast<T>(first + static_cast<T>(k));
        return;
    }
    for (int64_t k = 0; k < n; ++k) {
        out[k] = static_cast<T>(index + offset);
        if (++within == coordinate.divisor) {
            within = 0;
            if (++index == coordinate.size) index = 0;
        }
    }
}

template <class T> inline void leaf(const Instruction& instruction, const Tile& tile, int64_t n, T* out) {
    const Coordinate& coordinate = tile.terms->coordinates[instruction.which];
    const Strip strip = instruction.strip;
    if (strip == Strip::diagonal_row_i || strip == Strip::diagonal_row_l) {
        out[0] = static_cast<T>(tile.top);
    } else if (strip == Strip::diagonal_key_i || strip == Strip::diagonal_key_l) {
        const T first = static_cast<T>(tile.place.key0 % coordinate.size + coordinate.offset);
        for (int64_t k = 0; k < n; ++k) out[k] = static_cast<T>(first + static_cast<T>(k));
    } else {
        const bool position = strip == Strip::position_i || strip == Strip::position_l;
        count_up(coordinate, flat_of(coordinate.role, tile.place), position ? coordinate.offset : 0, n, out);
    }
}

inline void leaf(const Instruction& instruction, const Tile& tile, int64_t n, char* out) {
    const bool wide = (static_cast<int>(instruction.strip) - static_cast<int>(Strip::index_i)) & 1;
    if (wide) leaf(instruction, tile, n, reinterpret_cast<strips::Alias<int64_t>*>(out));
    else leaf(instruction, tile, n, reinterpret_cast<strips::Alias<int32_t>*>(out));
}

// `origins` holds, for each Base, where its offsets count from.
inline void run(const Section& section, int64_t n, char* const* origins, const Tile& tile) {
    const auto at = [&](const Instruction& i, int m) { return origins[static_cast<int>(i.bases[m])] + i.offsets[m]; };
    for (const Instruction* i = section.first, *end = i + section.count; i != end; ++i) {
        if (i->strip >= Strip::count) {
            leaf(*i, tile, n, at(*i, 0));
            continue;
        }
        const void* c = i->which >= 0 ? static_cast<const void*>(&tile.terms->tables[i->which]) : at(*i, 3);
        strips::table[static_cast<int>(i->strip)].by_shape[i->shape](n, at(*i, 0), at(*i, 1), at(*i, 2), c);
    }
}

// Whether the fast program fits the tile; fills in its rows' places on the diagonals.
inline bool fits(const Program& program, Tile& tile) {
    const Terms& terms = *tile.terms;
    if (!program.along_keys) return true;
    const Coordinate& key = terms.coordinates[program.key_coordinate];
    const int64_t first = tile.place.key0 % key.size;
    if (first + tile.place.keys > key.size) return false;
    if (program.row_coordinate < 0) return true;
    const Coordinate& row = terms.coordinates[program.row_coordinate];
    int64_t standing[kTileRows] = {};
    count_up(row, tile.place.row0, row.offset, tile.place.rows, standing);
    int64_t low = standing[0], high = standing[0];
    for (int64_t r = 1; r < tile.place.rows; ++r) {
        low = standing[r] < low ? standing[r] : low;
        high = standing[r] > high ? standing[r] : high;
    }
    if (high - low > kTileSpread) return false;
    tile.top = high, tile.spread = high - low;
    for (int64_t r = 0; r < tile.place.rows; ++r) tile.back[r] = static_cast<int32_t>(high - standing[r]);
    return true;
}

// One program on one tile: everything that is the same in several rows is computed when it is made.
class Running {
  public:
    Running(const Pair& pair, const Terms& terms, const Place& place, Scratch& scratch) {
        tile_.terms = &terms;
        tile_.place = place;
        program_ = &pair.fast;
        if (!fits(pair.fast, tile_)) program_ = &pair.general;
        char* memory = scratch.memory + kWorkBytes + pair.memory;
        for (char*& origin : origins_) origin = memory;
        origins_[static_cast<int>(Base::constants)] = static_cast<char*>(const_cast<void*>(program_->constants));
        const int64_t lengths[] = {1, place.rows, place.keys, place.keys + tile_.spread};
        for (int n = 0; n < 4; ++n) run(program_->sections[n], lengths[n], origins_, tile_);
        memory_ = memory;
    }

    // Computes one row, of the place's first; `score` is its score so far.
    void row(int64_t r, const void* score) {
        origins_[static_cast<int>(Base::row4)] = memory_ + r * 4;
        origins_[static_cast<int>(Base::row8)] = memory_ + r * 8;
        if (program_->row_coordinate >= 0) {
            origins_[static_cast<int>(Base::diagonal4)] = memory_ + tile_.back[r] * 4;
            origins_[static_cast<int>(Base::diagonal8)] = memory_ + tile_.back[r] * 8;
        }
        origins_[static_cast<int>(Base::score)] = static_cast<char*>(const_cast<void*>(score));
        run(program_->sections[4], tile_.place.keys, origins_, tile_);
    }

    const void* at(const Reference& reference) const { return origins_[static_cast<int>(reference.base)] + reference.offset; }
    // The same without what the last row moved it by.
    const void* first(const Reference& reference) const { return memory_ + reference.offset; }
    const Program& program() const { return *program_; }
    int64_t diagonals() const { return tile_.place.keys + tile_.spread; }
    int64_t back(int64_t r) const { return tile_.back[r]; }

  private:
    Tile tile_;
    const Program* program_;
    char* memory_;
    char* origins_[static_cast<int>(Base::num)];
};

// Whether a value is one number for a whole row.
QKV_INLINE bool one_for_row(const Reference& reference) {
    return reference.cls == Class::uniform || reference.cls == Class::row;
}

// Notes lookups that left their tables at a pair of this row that counts: those that `kept` keeps, or all where it is null.
inline void note_outside(Running& running, int64_t keys, const int32_t* kept, bool one_kept, Scratch& scratch) {
    const Program& program = running.program();
    for (int32_t n = 0; n < program.num_checks; ++n) {
        const auto* where = static_cast<const strips::Alias<int32_t>*>(running.at(program.checks[n].where));
        const bool one = one_for_row(program.checks[n].where);
        int32_t seen = 0;
        for (int64_t k = 0; k < keys; ++k) {
            seen |= where[one ? 0 : k] & (kept ? kept[one_kept ? 0 : k] : -1);
        }
        if (seen) scratch.outside = program.checks[n].lookup;
    }
}

// to[k] = kept[k] ? value[k] : -inf
template <class T> inline void settle(int64_t n, T* to, const void* kept, bool one_kept, const void* value, bool one_value) {
    const T dropped = -__builtin_huge_val();
    const int shape = (one_kept ? 1 : 0) | (one_value ? 2 : 0) | 4;
    if (shape == 7) {
        const T out = *static_cast<const strips::Alias<int32_t>*>(kept) ? *static_cast<const T*>(value) : dropped;
        for (int64_t k = 0; k < n; ++k) to[k] = out;
        return;
    }
    constexpr Strip strip = sizeof(T) == 4 ? Strip::select_4 : Strip::select_8;
    strips::table[static_cast<int>(strip)].by_shape[shape](n, to, kept, value, &dropped);
}

template <class T> inline void terms_of_tile(const Terms& terms, const Place& place, T* s, int64_t stride, bool masked, Scratch& scratch) {
    constexpr int32_t always = -1;
    const bool masks = masked && terms.masks(), changes = terms.changes();
    const auto with = [&](Running* keep, Running* score) {
        for (int64_t r = 0; r < place.rows; ++r) {
            T* row = s + r * stride;
            const void* kept = &always;
            bool one_kept = true;
            if (keep) {
                keep->row(r, row);
                const Reference& result = keep->program().result;
                kept = keep->at(result), one_kept = one_for_row(result);
                if (keep->program().num_checks) note_outside(*keep, place.keys, nullptr, false, scratch);
            }
            const void* value = row;
            bool one_value = false;
            if (score) {
                score->row(r, row);
                const Reference& result = score->program().result;
                value = score->at(result), one_value = one_for_row(result);
                if (score->program().num_checks) {
                    note_outside(*score, place.keys, static_cast<const int32_t*>(kept), one_kept, scratch);
                }
            }
            if (keep) settle(place.keys, row, kept, one_kept, value, one_value);
            else if (one_value) for (int64_t k = 0; k < place.keys; ++k) row[k] = *static_cast<const T*>(value);
            else if (value != row) memcpy(row, value, static_cast<unsigned long>(place.keys) * sizeof(T));
        }
    };
    if (masks && changes) {
        Running keep(terms.keep, terms, place, scratch), score(terms.score, terms, place, scratch);
        with(&keep, &score);
    } else if (masks) {
        Running keep(terms.keep, terms, place, scratch);
        with(&keep, nullptr);
    } else if (changes) {
        Running score(terms.score, terms, place, scratch);
        with(nullptr, &score);
    }
}

// Calls `body` with each tile of the place, and where it begins.
template <class F> QKV_INLINE void over_tiles(const Place& place, F body) {
    for (int64_t r = 0; r < place.rows; r += kTileRows) {
        for (int64_t k = 0; k < place.keys; k += kTileKeys) {
            const int64_t rows = place.rows - r < kTileRows ? place.rows - r : kTileRows;
            const int64_t keys = place.keys - k < kTileKeys ? place.keys - k : kTileKeys;
            body(Place{place.shared, place.row0 + r, rows, place.key0 + k, keys}, r, k);
        }
    }
}

template <class T>
void apply_terms(const Terms& terms, const Place& place, T* s, int64_t stride, bool masked, Scratch& scratch) {
    over_tiles(place, [&](const Place& tile, int64_t r, int64_t k) {
        terms_of_tile(terms, tile, s + r * stride + k, stride, masked, scratch);
    });
}

void pair_rows(const Terms& terms, const Place& place, int32_t* out, int64_t stride, Scratch& scratch) {
    over_tiles(place, [&](const Place& tile, int64_t r0, int64_t k0) {
        Running rows(terms.row, terms, tile, scratch);
        for (int64_t r = 0; r < tile.rows; ++r) {
            rows.row(r, nullptr);
            const Reference& result = rows.program().result;
            const auto* value = static_cast<const strips::Alias<int32_t>*>(rows.at(result));
            const bool one = one_for_row(result);
            int32_t* to = out + (r0 + r) * stride + k0;
            for (int64_t k = 0; k < tile.keys; ++k) to[k] = value[one ? 0 : k];
            if (rows.program().num_checks) note_outside(rows, tile.keys, nullptr, false, scratch);
        }
    });
}

// to[k] = kept[k] ? incoming[k] * slope[k] : 0; a slope may be NaN where a pair is dropped.
template <class T>
inline void weigh(int64_t n, T* to, const T* incoming, const void* kept, bool one_kept, const void* slope, bool one_slope) {
    const auto* keep = static_cast<const strips::Alias<int32_t>*>(kept);
    const auto* by = static_cast<const strips::Alias<T>*>(slope);
    if (one_kept && !*keep) {
        for (int64_t k = 0; k < n; ++k) to[k] = 0;
        return;
    }
    const T one = one_slope ? *by : T(0);
#pragma GCC ivdep
    for (int64_t k = 0; k < n; ++k) to[k] = incoming[k] * (one_slope ? one : by[k]);
    if (one_kept) return;
#pragma GCC ivdep
    for (int64_t k = 0; k < n; ++k) to[k] = keep[k] ? to[k] : T(0);
}

template <class T> QKV_INLINE T sum_of(const T* from, int64_t n) {
    Vec<T> sums{};
    int64_t k = 0;
    for (; k + Lanes<T>::count <= n; k += Lanes<T>::count) sums += load(from + k);
    T out = sum_lanes<T>(sums);
    for (; k < n; ++k) out += from[k];
    return out;
}

// The gradients of the tables that one tile's rows read. What several rows add to the same strip of elements (along
// keys or diagonals) is summed before it goes to the table, for the first lookup of that kind.
template <class T> class Gathering {
  public:
    Gathering(Running& running, T* const* table_grads, int64_t keys, Scratch& scratch)
        : running_(running), grads_(table_grads), keys_(keys), products_(reinterpret_cast<T*>(scratch.memory)),
          sums_(products_ + kTileKeys + kTileSpread) {
        const Program& program = running.program();
        for (int32_t n = 0; n < program.num_scatters && summed_ < 0; ++n) {
            const Scatter& scatter = program.scatters[n];
            const bool along = scatter.strip.cls == Class::key || scatter.strip.cls == Class::diagonal;
            if (scatter.how == Scatter::How::strip && along && scatter.scalar.cls == Class::uniform && grads_[scatter.table]) summed_ = n;
        }
        if (summed_ >= 0) for (int64_t k = 0; k < running.diagonals(); ++k) sums_[k] = 0;
    }

    void row(int64_t r, const T* incoming, const void* kept, bool one_kept) {
        const Program& program = running_.program();
        for (int32_t n = 0; n < program.num_scatters; ++n) {
            const Scatter& scatter = program.scatters[n];
            T* to = grads_[scatter.table];
            if (!to) continue;
            weigh(keys_, products_, incoming, kept, one_kept, running_.at(scatter.value), one_for_row(scatter.value));
            if (n == summed_) {
                T* sums = sums_ + (scatter.strip.cls == Class::diagonal ? running_.back(r) : 0);
#pragma GCC ivdep
                for (int64_t k = 0; k < keys_; ++k) sums[k] += products_[k];
                continue;
            }
            to += *static_cast<const int64_t*>(running_.at(scatter.scalar));
            if (scatter.how == Scatter::How::one) {
                *to += sum_of(products_, keys_);
            } else if (scatter.how == Scatter::How::line) {
                if (scatter.step == 1) {
#pragma GCC ivdep
                    for (int64_t k = 0; k < keys_; ++k) to[k] += products_[k];
                } else {
                    for (int64_t k = 0; k < keys_; ++k) to[k * scatter.step] += products_[k];
                }
            } else {
                const auto* at = static_cast<const int64_t*>(running_.at(scatter.strip));
                for (int64_t k = 0; k < keys_; ++k) to[at[k]] += products_[k];
            }
        }
    }

    // After the last row.
    void finish() {
        if (summed_ < 0) return;
        const Scatter& scatter = running_.program().scatters[summed_];
        T* to = grads_[scatter.table] + *static_cast<const int64_t*>(running_.at(scatter.scalar));
        const auto* at = static_cast<const int64_t*>(running_.first(scatter.strip));
        const int64_t n = scatter.strip.cls == Class::diagonal ? running_.diagonals() : keys_;
        for (int64_t k = 0; k < n; ++k) to[at[k]] += sums_[k];
    }

  private:
    Running& running_;
    T* const* grads_;
    int64_t keys_;
    T* products_;
    T* sums_;
    int32_t summed_ = -1;
};

template <class T>
inline void backward_of_tile(const Terms& terms, const Place& place, const T* raw, int64_t raw_stride, T* ds, int64_t stride,
                             bool masked, T* const* table_grads, Scratch& scratch) {
    constexpr int32_t always = -1;
    constexpr T unchanged = 1;
    const auto with = [&](Running* keep, Running* slopes, Gathering<T>* tables) {
        for (int64_t r = 0; r < place.rows; ++r) {
            T* row = ds + r * stride;
            const void* kept = &always;
            bool one_kept = true;
            if (keep) {
                keep->row(r, nullptr);
                kept = keep->at(keep->program().result), one_kept = one_for_row(keep->program().result);
            }
            const void* slope = &unchanged;
            bool one_slope = true;
            if (slopes) {
                slopes->row(r, raw + r * raw_stride);
                if (tables) tables->row(r, row, kept, one_kept);
                slope = slopes->at(slopes->program().result), one_slope = one_for_row(slopes->program().result);
            }
            weigh(place.keys, row, row, kept, one_kept, slope, one_slope);
        }
    };
    const bool changes = terms.backward.general.present;
    const auto with_slopes = [&](Running* keep) {
        if (!changes) return with(keep, nullptr, nullptr);
        Running slopes(terms.backward, terms, place, scratch);
        if (!slopes.program().num_scatters || !table_grads) return with(keep, &slopes, nullptr);
        Gathering<T> tables(slopes, table_grads, place.keys, scratch);
        with(keep, &slopes, &tables);
        tables.finish();
    };
    if (masked && terms.masks()) {
        Running keep(terms.keep, terms, place, scratch);
        with_slopes(&keep);
    } else if (changes) {
        with_slopes(nullptr);
    }
}

template <class T>
void terms_backward(const Terms& terms, const Place& place, const T* raw, int64_t raw_stride, T* ds, int64_t stride,
                           bool masked, T* const* table_grads, Scratch& scratch) {
    over_tiles(place, [&](const Place& tile, int64_t r, int64_t k) {
        backward_of_tile(terms, tile, raw + r * raw_stride + k, raw_stride, ds + r * stride + k, stride, masked, table_grads, scratch);
    });
}

template void apply_terms<float>(const Terms&, const Place&, float*, int64_t, bool, Scratch&);
template void apply_terms<double>(const Terms&, const Place&, double*, int64_t, bool, Scratch&);
template void terms_backward<float>(const Terms&, const Place&, const float*, int64_t, float*, int64_t, bool, float* const*,
                                    Scratch&);
template void terms_backward<double>(const Terms&, const Place&, const double*, int64_t, double*, int64_t, bool,
                                     double* const*, Scratch&);

}  // namespace qkv::QKV_TARGET
