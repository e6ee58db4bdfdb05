// Vectors of one target: types, loads and stores of every element, and the few operations that plain C++ has no sign for.
//
// A target's source file defines QKV_TARGET (its namespace) and QKV_LANES (floats in a vector) and includes the kernels;
// everything here is GCC's vector extension, so that arithmetic, comparison and selection are the language's own signs:
// a * b + c is fused, a < b is a mask of -1 and 0, m ? a : b selects. Refuses to know what is computed with them.
// No header of the standard library with out-of-line templates may be used by target code: what the linker keeps of
// them could hold instructions that other machines lack.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX__) || defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "../elements.h"

#ifndef QKV_TARGET
#error "a target's source file defines QKV_TARGET and QKV_LANES first"
#endif

#define QKV_INLINE inline __attribute__((always_inline))
#define QKV_LAMBDA __attribute__((always_inline))  // behind a lambda's parameters

namespace qkv::QKV_TARGET {

constexpr int kLanes = QKV_LANES;          // floats in a vector
constexpr int kDoubles = QKV_LANES / 2;    // doubles in a vector

template <class T, int N>
struct VectorOf {
    typedef T type __attribute__((vector_size(sizeof(T) * N)));
    typedef T loose __attribute__((vector_size(sizeof(T) * N), aligned(sizeof(T)), may_alias));
};

using vf = VectorOf<float, kLanes>::type;
using vi = VectorOf<int32_t, kLanes>::type;
using vu = VectorOf<uint32_t, kLanes>::type;
using vd = VectorOf<double, kDoubles>::type;
using vl = VectorOf<int64_t, kDoubles>::type;
using v16 = VectorOf<uint16_t, kLanes>::type;
using v8 = VectorOf<int8_t, kLanes>::type;

// The vector of a scalar type, and how many it holds.
template <class T> struct Lanes;
template <> struct Lanes<float> { using type = vf; static constexpr int count = kLanes; };
template <> struct Lanes<int32_t> { using type = vi; static constexpr int count = kLanes; };
template <> struct Lanes<double> { using type = vd; static constexpr int count = kDoubles; };
template <> struct Lanes<int64_t> { using type = vl; static constexpr int count = kDoubles; };
template <class T> using Vec = typename Lanes<T>::type;

// Any address: vectors of elements need no alignment.
template <class T> QKV_INLINE Vec<T> load(const T* from) {
    return *reinterpret_cast<const typename VectorOf<T, Lanes<T>::count>::loose*>(from);
}
template <class T> QKV_INLINE void store(T* to, Vec<T> value) {
    *reinterpret_cast<typename VectorOf<T, Lanes<T>::count>::loose*>(to) = value;
}
template <class T> QKV_INLINE Vec<T> splat(T value) { return value - Vec<T>{}; }  // x - 0 is x, whatever x is
// Keeps a value in a register: a compiler that sees memory behind it would load it again for each use.
template <class V> QKV_INLINE void hold([[maybe_unused]] V& value) {
#if (defined(__AVX512F__) && QKV_LANES == 16) || (defined(__AVX__) && QKV_LANES == 8)
    asm("" : "+v"(value));
#elif defined(__aarch64__) && QKV_LANES == 4
    asm("" : "+w"(value));
#endif
}
template <class To, class From> QKV_INLINE To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To out;
    memcpy(&out, &value, sizeof out);
    return out;
}

// a > b ? a : b: b where one of them is NaN, as the processor's own instruction has it.
QKV_INLINE vf larger(vf a, vf b) {
#if defined(__AVX512F__) && QKV_LANES == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__) && QKV_LANES == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
QKV_INLINE vf smaller(vf a, vf b) {
#if defined(__AVX512F__) && QKV_LANES == 16
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__) && QKV_LANES == 8
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}
QKV_INLINE vd larger(vd a, vd b) { return a > b ? a : b; }
QKV_INLINE vd smaller(vd a, vd b) { return a < b ? a : b; }

// Sums and extremes of a vector's lanes, always in the same order: halves are folded onto each other.
template <class T> QKV_INLINE T sum_lanes(Vec<T> value) {
    T part[Lanes<T>::count];
    store<T>(part, value);
#pragma GCC unroll 8
    for (int half = Lanes<T>::count / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
        for (int n = 0; n < half; ++n) part[n] += part[n + half];
    }
    return part[0];
}
template <class T> QKV_INLINE T largest_lane(Vec<T> value) {
    T part[Lanes<T>::count];
    store<T>(part, value);
    T best = part[0];
#pragma GCC unroll 16
    for (int n = 1; n < Lanes<T>::count; ++n) best = part[n] > best ? part[n] : best;
    return best;
}

// 16-bit elements, widened exactly and narrowed to nearest even; NaN stays NaN.
QKV_INLINE vf widen_bf16(v16 value) {
#if defined(__AVX512F__) && QKV_LANES == 16
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)value), 16);
#elif defined(__AVX2__) && QKV_LANES == 8
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)value), 16);
#else
    return bits_as<vf>(__builtin_convertvector(value, vu) << 16);
#endif
}

QKV_INLINE v16 narrow_bf16(vf value) {
    const vu bits = bits_as<vu>(value);
    const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const vu quiet = (bits >> 16) | 0x40u;
    const vu out = (value != value) ? quiet : rounded;
    return __builtin_convertvector(out, v16);
}

QKV_INLINE vf widen_f16(v16 value) {
#if defined(__AVX512F__) && QKV_LANES == 16
    return (vf)_mm512_cvtph_ps((__m256i)value);
#elif defined(__F16C__) && QKV_LANES == 8
    return (vf)_mm256_cvtph_ps((__m128i)value);
#elif defined(__F16C__) && QKV_LANES == 16
    __m128i half[2];
    memcpy(half, &value, sizeof half);
    const __m256 wide[2] = {_mm256_cvtph_ps(half[0]), _mm256_cvtph_ps(half[1])};
    vf out;
    memcpy(&out, wide, sizeof out);
    return out;
#else
    vf out;
    for (int n = 0; n < kLanes; ++n) out[n] = widened(F16{value[n]});
    return out;
#endif
}

QKV_INLINE v16 narrow_f16(vf value) {
#if defined(__AVX512F__) && QKV_LANES == 16
    return (v16)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__) && QKV_LANES == 8
    return (v16)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__) && QKV_LANES == 16
    __m256 half[2];
    memcpy(half, &value, sizeof half);
    const __m128i parts[2] = {_mm256_cvtps_ph(half[0], _MM_FROUND_TO_NEAREST_INT),
                              _mm256_cvtps_ph(half[1], _MM_FROUND_TO_NEAREST_INT)};
    v16 out;
    memcpy(&out, parts, sizeof out);
    return out;
#else
    v16 out;
    for (int n = 0; n < kLanes; ++n) out[n] = narrowed<F16>(value[n]).bits;
    return out;
#endif
}

// A vector of T from elements of E: float from float, BF16 and F16, double from double.
template <class T, class E> struct Read;
template <> struct Read<float, float> { static QKV_INLINE vf from(const float* p) { return load(p); } };
template <> struct Read<double, double> { static QKV_INLINE vd from(const double* p) { return load(p); } };
template <> struct Read<float, BF16> {
    static QKV_INLINE vf from(const BF16* p) {
        v16 raw;
        memcpy(&raw, p, sizeof raw);
        return widen_bf16(raw);
    }
};
template <> struct Read<float, F16> {
    static QKV_INLINE vf from(const F16* p) {
        v16 raw;
        memcpy(&raw, p, sizeof raw);
        return widen_f16(raw);
    }
};

template <> struct Read<float, int8_t> {
    static QKV_INLINE vf from(const int8_t* p) {
#if defined(__AVX512F__) && QKV_LANES == 16
        return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__) && QKV_LANES == 8
        return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
        v8 raw;
        memcpy(&raw, p, sizeof raw);
        return __builtin_convertvector(__builtin_convertvector(raw, vi), vf);
#endif
    }
};

template <class T, class E> struct Write;
template <> struct Write<float, float> { static QKV_INLINE void to(float* p, vf v) { store(p, v); } };
template <> struct Write<double, double> { static QKV_INLINE void to(double* p, vd v) { store(p, v); } };
template <> struct Write<float, BF16> {
    static QKV_INLINE void to(BF16* p, vf v) {
        const v16 raw = narrow_bf16(v);
        memcpy(p, &raw, sizeof raw);
    }
};
template <> struct Write<float, F16> {
    static QKV_INLINE void to(F16* p, vf v) {
        const v16 raw = narrow_f16(v);
        memcpy(p, &raw, sizeof raw);
    }
};

}  // namespace qkv::QKV_TARGET
