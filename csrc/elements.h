// The elements that tensors hold, as the core sees them: two 16-bit floats beside float and double.
//
// Knows how a 16-bit float becomes a float and back, one at a time. Refuses to know vectors: a target has its own.
#pragma once

#include <stdint.h>
#include <string.h>

namespace qkv {

struct BF16 { uint16_t bits; };
struct F16 { uint16_t bits; };

enum class Element : uint8_t { f64, f32, bf16, f16, code8, code4 };

// Codes of a quantized cache: an element is its item's scale times a whole number, which fills a byte or half of one.
constexpr int kCodeRun = 32;  // features of half bytes that lie together: n and n + 16 share byte n, each as code + 8

static inline bool is_code(Element element) { return element == Element::code8 || element == Element::code4; }
static inline int64_t element_bytes(Element element) {
    return element == Element::f64 ? 8 : element == Element::f32 ? 4 : is_code(element) ? 1 : 2;
}
static inline float widened(int8_t x) { return x; }

static inline float widened(float x) { return x; }
static inline double widened(double x) { return x; }

static inline float widened(BF16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

static inline float widened(F16 x) {
    const uint32_t sign = (x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 31u, mantissa = x.bits & 0x3ffu;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {  // a subnormal of 16 bits is a normal float: mantissa * 2^-24
        const float size = static_cast<float>(mantissa) * 5.9604644775390625e-08f;
        memcpy(&bits, &size, sizeof bits);
        bits |= sign;
    }
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

template <class E> static inline E narrowed(float x);
template <> inline float narrowed<float>(float x) { return x; }

template <> inline BF16 narrowed<BF16>(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return BF16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
    return BF16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <> inline F16 narrowed<F16>(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    const uint32_t size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return F16{static_cast<uint16_t>(sign | 0x7e00u | ((size >> 13) & 0x3ffu))};
    if (size >= 0x477ff000u) return F16{static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and more round to infinity
    if (size < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, rounded by adding a number whose last bit is that
        float shifted;
        memcpy(&shifted, &size, sizeof shifted);
        shifted += 0.5f;
        uint32_t out;
        memcpy(&out, &shifted, sizeof out);
        return F16{static_cast<uint16_t>(sign | (out - 0x3f000000u))};
    }
    const uint32_t rounded = size + 0xfffu + ((size >> 13) & 1u);
    return F16{static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

}  // namespace qkv
