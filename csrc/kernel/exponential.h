// Powers of two and e: the function that softmax lives on.
//
// float: 2^n times a polynomial of degree 5 on [-1/2, 1/2], relative error below 1.2e-7; exactly 1 at 0 and exactly 0
// from -127 down, so that what a mask drops weighs nothing; NaN stays NaN. Arguments above 0 are not expected beyond 127.
// double: the library's.
#pragma once

#include "vec.h"

namespace qkv::QKV_TARGET {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

QKV_INLINE vf power_of_two(vf x) {
    const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    x = larger(splat(-127.0f), x);
    const vf shifted = x + magic;
    const vf part = x - (shifted - magic);
    vf value = splat(1.326471451e-03f);
    value = value * part + 9.671512991e-03f;
    value = value * part + 5.550733954e-02f;
    value = value * part + 2.402224243e-01f;
    value = value * part + 6.931470037e-01f;
    value = value * part + 1.0f;
    return bits_as<vf>(bits_as<vi>(value) + (bits_as<vi>(shifted) << 23));
}

QKV_INLINE vd power_of_two(vd x) {
    vd out;
    for (int n = 0; n < kDoubles; ++n) out[n] = __builtin_exp2(x[n]);
    return out;
}

QKV_INLINE vf exponential(vf x) { return power_of_two(x * static_cast<float>(kLog2E)); }
QKV_INLINE vd exponential(vd x) {
    vd out;
    for (int n = 0; n < kDoubles; ++n) out[n] = __builtin_exp(x[n]);
    return out;
}

}  // namespace qkv::QKV_TARGET
