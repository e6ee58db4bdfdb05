#include "codec.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace qkv {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

// The largest number of 16 significant bits that is not above x.
float rounded_down(double x) {
    int power = 0;
    const double share = std::frexp(x, &power);
    return static_cast<float>(std::ldexp(std::floor(share * 65536.0), power - 16));
}

// The last 8 bits of a positive float become 0, upwards: not less than any number that rounds to x.
float rounded_up(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits = (bits + 256u) & ~255u;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// To the nearest whole number, ties to even, of what is far below 2^22: the sum has no bits left for a fraction.
float whole(float x) { return (x + 12582912.0f) - 12582912.0f; }
double whole(double x) { return (x + 6755399441055744.0) - 6755399441055744.0; }

template <class T> float scale_of(T size, T most, float largest_scale) {
    if (!(size <= static_cast<T>(kLargest))) return std::numeric_limits<float>::quiet_NaN();
    if (size == T(0)) return 0.0f;
    const float scale = rounded_up(static_cast<float>(size / most));
    return scale > largest_scale ? largest_scale : scale;
}

// Codes of 4 bits as whole bytes on the way; T is the type that everything is computed in.
template <class T> float encoded(const T* x, std::int64_t count, T most, float largest_scale, std::int8_t* codes) {
    T size = 0;
    bool known = true;
    for (std::int64_t n = 0; n < count; ++n) {
        const T far = std::fabs(x[n]);
        size = far > size ? far : size;
        known &= far == far;
    }
    const float scale = known ? scale_of(size, most, largest_scale) : std::numeric_limits<float>::quiet_NaN();
    if (!(scale > 0.0f)) {
        std::memset(codes, 0, static_cast<std::size_t>(count));
        return scale;
    }
    const T step = static_cast<T>(scale), half = step / 2;
    for (std::int64_t n = 0; n < count; ++n) {
        T code = whole(x[n] / step);
        // the quotient is rounded, the product is exact and so is the rest: it says which neighbour is nearest
        const T rest = x[n] - code * step;
        code += static_cast<T>(rest > half) - static_cast<T>(rest < -half);
        code = code > most ? most : code < -most ? -most : code;
        codes[n] = static_cast<std::int8_t>(static_cast<std::int32_t>(code));
    }
    return scale;
}

// Two in a byte, plus 8: byte n of a run holds feature n and, in its high half, feature n + 16.
void packed(const std::int8_t* codes, std::int64_t runs, std::uint8_t* out) {
    constexpr int half = kCodeRun / 2;
    for (std::int64_t run = 0; run < runs; ++run) {
        for (int n = 0; n < half; ++n) {
            const int low = codes[run * kCodeRun + n] + 8, high = codes[run * kCodeRun + half + n] + 8;
            out[run * half + n] = static_cast<std::uint8_t>(low | (high << 4));
        }
    }
}

// What is worked on between a row and its codes.
template <class T> struct Desk {
    std::vector<T> wide;
    std::vector<std::int8_t> codes;
};

template <class E, class T> float encode_row(const Encoding& how, const E* row, Desk<T>& desk, void* out) {
    const std::int64_t count = how.feature_size;
    for (std::int64_t n = 0; n < count; ++n) {
        desk.wide[static_cast<std::size_t>(n)] = static_cast<T>(widened(row[n * how.feature_stride]));
    }
    const float largest_scale = rounded_down(static_cast<double>(kLargest) / (how.bits == 8 ? 127.0 : 7.0));
    if (how.bits == 8) return encoded<T>(desk.wide.data(), count, T(127), largest_scale, static_cast<std::int8_t*>(out));
    const float scale = encoded<T>(desk.wide.data(), count, T(7), largest_scale, desk.codes.data());
    packed(desk.codes.data(), (count + kCodeRun - 1) / kCodeRun, static_cast<std::uint8_t*>(out));
    return scale;
}

template <class E, class T> void encode_all(const Encoding& how, const E* rows, std::int8_t* codes, float* scales) {
    for (const std::int64_t size : how.sizes) {
        if (size == 0) return;
    }
    const std::size_t features = static_cast<std::size_t>(how.feature_size);
    Desk<T> desk{std::vector<T>(features), std::vector<std::int8_t>(features + kCodeRun)};
    std::vector<std::int64_t> at(how.sizes.size());
    for (;;) {
        std::int64_t row = 0, code = 0, scale = 0;
        for (std::size_t n = 0; n < at.size(); ++n) {
            row += at[n] * how.row_strides[n];
            code += at[n] * how.code_strides[n];
            scale += at[n] * how.scale_strides[n];
        }
        scales[scale] = encode_row<E, T>(how, rows + row, desk, codes + code);
        std::size_t axis = at.size();
        while (axis > 0 && ++at[axis - 1] == how.sizes[axis - 1]) at[--axis] = 0;
        if (axis == 0) return;
    }
}

}  // namespace

void encode(const Encoding& how, const void* rows, void* codes, float* scales) {
    std::int8_t* out = static_cast<std::int8_t*>(codes);
    switch (how.element) {
        case Element::f64: return encode_all<double, double>(how, static_cast<const double*>(rows), out, scales);
        case Element::f32: return encode_all<float, float>(how, static_cast<const float*>(rows), out, scales);
        case Element::bf16: return encode_all<BF16, float>(how, static_cast<const BF16*>(rows), out, scales);
        case Element::f16: return encode_all<F16, float>(how, static_cast<const F16*>(rows), out, scales);
        case Element::code8:
        case Element::code4: return;
    }
}

}  // namespace qkv
