// Powers of two and e: the function that softmax lives on.
//
// float: 2^n times a polynomial of degree 5 on [-1/2, 1/2], relative error below 1.7e-7; exactly 1 at 0 and exactly 0
// from -127 down, so that what a mask drops weighs nothing; NaN stays NaN. Arguments above 0 are not expected beyond 127.
// double: the library's.
#pragma once

#include "vec.h"

namespace qkv::QKV_TARGET {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

// Several at once, step by step, so that each step's results are there when the next one is due: one alone waits for
// itself most of the time.
template <int N> QKV_INLINE void powers_of_two(vf (&x)[N]) {
    vf shifted[N], value[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) x[n] = larger(splat(-127.0f), x[n]);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) shifted[n] = x[n] + 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) x[n] -= shifted[n] - 12582912.0f;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) value[n] = x[n] * 1.326471451e-03f + 9.671512991e-03f;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) value[n] = value[n] * x[n] + 5.550733954e-02f;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) value[n] = value[n] * x[n] + 2.402224243e-01f;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) value[n] = value[n] * x[n] + 6.931470037e-01f;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) value[n] = value[n] * x[n] + 1.0f;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) x[n] = bits_as<vf>(bits_as<vi>(value[n]) + (bits_as<vi>(shifted[n]) << 23));
}

QKV_INLINE vf power_of_two(vf x) {
    vf one[1] = {x};
    powers_of_two<1>(one);
    return one[0];
}

QKV_INLINE vd power_of_two(vd x) {
    vd out = {};
    for (int n = 0; n < kDoubles; ++n) out[n] = __builtin_exp2(x[n]);
    return out;
}

template <int N> QKV_INLINE void powers_of_two(vd (&x)[N]) {
    for (int n = 0; n < N; ++n) x[n] = power_of_two(x[n]);
}

QKV_INLINE vf exponential(vf x) { return power_of_two(x * static_cast<float>(kLog2E)); }
QKV_INLINE vd exponential(vd x) {
    vd out = {};
    for (int n = 0; n < kDoubles; ++n) out[n] = __builtin_exp(x[n]);
    return out;
}

template <int N> QKV_INLINE void exponentials(vf (&x)[N]) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) x[n] *= static_cast<float>(kLog2E);
    powers_of_two<N>(x);
}
template <int N> QKV_INLINE void exponentials(vd (&x)[N]) {
    for (int n = 0; n < N; ++n) x[n] = exponential(x[n]);
}

}  // namespace qkv::QKV_TARGET
