// Functions of one argument on vectors of float, a few units of the last place from exact, NaN and infinities as the
// C library has them. double goes to the library, one number after the other.
#pragma once

#include "vec.h"

namespace qkv::QKV_TARGET {

// e^r - 1 for r within half of ln 2, and the whole power of two that was taken out of x.
QKV_INLINE vf reduced_exponential(vf x, vf* whole) {
    const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const vf n = (x * 1.44269504088896341f + magic) - magic;
    vf r = n * -0.693359375f + x;
    r = n * 2.12194440e-4f + r;
    vf value = splat(1.9875691500e-4f);
    value = value * r + 1.3981999507e-3f;
    value = value * r + 8.3334519073e-3f;
    value = value * r + 4.1665795894e-2f;
    value = value * r + 1.6666665459e-1f;
    value = value * r + 5.0000001201e-1f;
    *whole = n;
    return value * (r * r) + r;
}

// 2^n for whole n from -126 to 127.
QKV_INLINE vf two_to(vf n) {
    return bits_as<vf>((bits_as<vi>(n + 12582912.0f) << 23) + 0x3f800000);
}

// e^x over the whole range: subnormal results and infinity included.
QKV_INLINE vf exponential_anywhere(vf x) {
    x = smaller(splat(89.0f), larger(splat(-104.0f), x));
    vf n;
    const vf value = reduced_exponential(x, &n) + 1.0f;
    const vf half = (n * 0.5f + 12582912.0f) - 12582912.0f;
    return value * two_to(half) * two_to(n - half);
}

// (1 - e^-2x) / (1 + e^-2x), the numerator without cancellation.
QKV_INLINE vf tanh_of(vf x) {
    const vi sign = bits_as<vi>(x) & static_cast<int32_t>(0x80000000u);
    const vf size = bits_as<vf>(bits_as<vi>(x) ^ sign);
    vf n;
    const vf part = reduced_exponential(larger(splat(-20.0f), size * -2.0f), &n);
    const vf scale = two_to(n);
    const vf less = part * scale + (scale - 1.0f);
    return bits_as<vf>(bits_as<vi>(-less / (less + 2.0f)) | sign);
}

QKV_INLINE vf sigmoid_of(vf x) { return 1.0f / (1.0f + exponential_anywhere(-x)); }

// Polynomials and constants of the logarithm, sine and cosine: S. L. Moshier, Cephes, single precision.
QKV_INLINE vf logarithm(vf x) {
    const vf scaled = x < 1.17549435e-38f ? x * 33554432.0f : x;  // 2^25: subnormal numbers become normal
    const vi bits = bits_as<vi>(scaled);
    vf power = __builtin_convertvector((bits >> 23) - 126, vf) - (x < 1.17549435e-38f ? splat(25.0f) : vf{});
    vf part = bits_as<vf>((bits & 0x7fffff) | 0x3f000000);  // from 1/2 to 1
    const vi low = part < 0.707106781186547524f;
    power = low ? power - 1.0f : power;
    part = low ? part + part - 1.0f : part - 1.0f;
    const vf square = part * part;
    vf value = splat(7.0376836292e-2f);
    value = value * part - 1.1514610310e-1f;
    value = value * part + 1.1676998740e-1f;
    value = value * part - 1.2420140846e-1f;
    value = value * part + 1.4249322787e-1f;
    value = value * part - 1.6668057665e-1f;
    value = value * part + 2.0000714765e-1f;
    value = value * part - 2.4999993993e-1f;
    value = value * part + 3.3333331174e-1f;
    value = value * part * square;
    value = power * -2.12194440e-4f + value;
    value = square * -0.5f + value;
    value = part + value;
    value = power * 0.693359375f + value;
    const float infinity = __builtin_inff();
    value = x == 0.0f ? splat(-infinity) : value;
    value = x == infinity ? x : value;
    return x >= 0.0f ? value : splat(__builtin_nanf(""));
}

constexpr float kTurnsReduced = 8192.0f;  // beyond, whole turns are the library's to take out

// sin(x + quarter * pi / 2), for |x| up to kTurnsReduced.
QKV_INLINE vf sine_of(vf x, int32_t quarter) {
    const vf magic = splat(12582912.0f);
    const vf shifted = x * 0.63661977236758134f + magic;
    const vf n = shifted - magic;
    vf r = n * -1.5703125f + x;
    r = n * -4.837512969970703125e-4f + r;
    r = n * -7.54978995489188216e-8f + r;
    const vi turn = bits_as<vi>(shifted) + quarter;
    const vf square = r * r;
    vf sine = splat(-1.9515295891e-4f);
    sine = sine * square + 8.3321608736e-3f;
    sine = sine * square - 1.6666654611e-1f;
    sine = sine * square * r + r;
    vf cosine = splat(2.443315711809948e-5f);
    cosine = cosine * square - 1.388731625493765e-3f;
    cosine = cosine * square + 4.166664568298827e-2f;
    cosine = cosine * square * square + (square * -0.5f + 1.0f);
    const vf value = (turn & 1) != 0 ? cosine : sine;
    return bits_as<vf>(bits_as<vu>(value) ^ ((bits_as<vu>(turn) & 2u) << 30));
}

template <int quarter> QKV_INLINE vf turned(vf x) {
    const vf size = bits_as<vf>(bits_as<vi>(x) & 0x7fffffff);
    vf out = sine_of(x, quarter);
    const vi far = ~(size <= kTurnsReduced);
    int32_t any = 0;
    for (int n = 0; n < kLanes; ++n) any |= far[n];
    if (any) {
        for (int n = 0; n < kLanes; ++n) {
            if (far[n]) out[n] = quarter ? __builtin_cosf(x[n]) : __builtin_sinf(x[n]);
        }
    }
    return out;
}

// x P(x^2) / Q(x^2), fitted to the smallest relative error on [0, 3.92], where the function rounds to 1.
QKV_INLINE vf error_function(vf x) {
    const vf near = smaller(splat(3.92f), larger(splat(-3.92f), x));
    const vf square = near * near;
    vf above = splat(-1.279984208e-08f);
    above = above * square + 4.609240023e-06f;
    above = above * square + 0.0003767593007f;
    above = above * square + 0.003838629229f;
    above = above * square + 0.05424400792f;
    above = above * square + 0.185135439f;
    above = above * square + 1.128379226f;
    vf below = splat(6.239923096e-05f);
    below = below * square + 0.001301526674f;
    below = below * square + 0.01543006208f;
    below = below * square + 0.1138738245f;
    below = below * square + 0.4974054098f;
    below = below * square + 1.0f;
    const vf value = above * near / below;
    return value > 1.0f ? splat(1.0f) : value < -1.0f ? splat(-1.0f) : value;
}

// |x|^y for finite x and y, computed in double: off by less than a unit of float's last place.
QKV_INLINE double power_of(double x, double y) {
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= INT64_MAX;
    // the exponent as a double without a conversion that vectors lack: 2^52 + it, minus 2^52
    const int64_t exponent_bits = (bits >> 52) | 0x4330000000000000;
    double power;
    memcpy(&power, &exponent_bits, sizeof power);
    power -= 4503599627370496.0 + 1023.0;
    const int64_t part_bits = (bits & 0x000fffffffffffff) | 0x3ff0000000000000;
    double part;
    memcpy(&part, &part_bits, sizeof part);  // from 1 to 2
    const bool high = part > 1.4142135623730951;
    part = high ? part * 0.5 : part;
    power = high ? power + 1.0 : power;
    const double s = (part - 1.0) / (part + 1.0), square = s * s;
    double series = 1.0 / 17;
    series = series * square + 1.0 / 15;
    series = series * square + 1.0 / 13;
    series = series * square + 1.0 / 11;
    series = series * square + 1.0 / 9;
    series = series * square + 1.0 / 7;
    series = series * square + 1.0 / 5;
    series = series * square + 1.0 / 3;
    series = series * square + 1.0;
    double total = y * (power + s * series * 2.8853900817779268);  // 2 / ln 2
    total = total > 200.0 ? 200.0 : total < -200.0 ? -200.0 : total;
    const double shifted = total + 6755399441055744.0;  // 1.5 * 2^52
    const double r = (total - (shifted - 6755399441055744.0)) * 0.69314718055994531;
    double value = 1.0 / 3628800;
    value = value * r + 1.0 / 362880;
    value = value * r + 1.0 / 40320;
    value = value * r + 1.0 / 5040;
    value = value * r + 1.0 / 720;
    value = value * r + 1.0 / 120;
    value = value * r + 1.0 / 24;
    value = value * r + 1.0 / 6;
    value = value * r + 0.5;
    value = value * r + 1.0;
    value = value * r + 1.0;
    int64_t shifted_bits, value_bits;
    memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
    memcpy(&value_bits, &value, sizeof value_bits);
    value_bits = static_cast<int64_t>(static_cast<uint64_t>(value_bits) + (static_cast<uint64_t>(shifted_bits) << 52));
    memcpy(&value, &value_bits, sizeof value);
    return value;
}

}  // namespace qkv::QKV_TARGET
