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

}  // namespace qkv::QKV_TARGET
