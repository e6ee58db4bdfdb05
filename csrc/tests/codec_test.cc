// Codes are within half a step of what they stand for, wherever rows lie, and rows that are no numbers are alone.
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.h"
#include "codec.h"

namespace {

constexpr int kFeatures = 40, kRows = 6;

qkv::Encoding plain(qkv::Element element, int bits, std::int64_t width) {
    return {element, bits, kFeatures, 1, {2, 3}, {3 * kFeatures, kFeatures}, {3 * width, width}, {3, 1}};
}

std::vector<float> numbers() {
    std::vector<float> out;
    std::uint32_t state = 7;
    const float sizes[kRows] = {1.0f, 0.0f, 1e-42f, 3e38f, 1.0f, 1e-3f};
    for (int n = 0; n < kRows * kFeatures; ++n) {
        state = state * 1664525u + 1013904223u;
        out.push_back((static_cast<float>(state >> 8) / 8388608.0f - 1.0f) * sizes[n / kFeatures]);
    }
    out[3 * kFeatures + 1] = std::numeric_limits<float>::max();
    out[4 * kFeatures + 9] = std::numeric_limits<float>::quiet_NaN();
    return out;
}

int code_at(const std::vector<std::uint8_t>& codes, int bits, int row, int n) {
    if (bits == 8) return static_cast<std::int8_t>(codes[static_cast<std::size_t>(row * kFeatures + n)]);
    const int byte = codes[static_cast<std::size_t>(row * 32 + n / 32 * 16 + n % 16)];
    return (n % 32 < 16 ? byte & 15 : byte >> 4) - 8;
}

void errors_are_bounded(int bits) {
    const int width = bits == 8 ? kFeatures : 32;
    const std::vector<float> x = numbers();
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(kRows * width), 255);
    std::vector<float> scales(kRows, -1.0f);
    qkv::encode(plain(qkv::Element::f32, bits, width), x.data(), codes.data(), scales.data());
    for (int row = 0; row < kRows; ++row) {
        const float scale = scales[static_cast<std::size_t>(row)];
        CHECK((scale != scale) == (row == 4));
        CHECK((scale == 0.0f) == (row == 1));
        int largest = 0;
        for (int n = 0; n < kFeatures; ++n) {
            const int code = code_at(codes, bits, row, n);
            largest = std::abs(code) > largest ? std::abs(code) : largest;
            if (row == 4) continue;
            const double was = static_cast<double>(x[static_cast<std::size_t>(row * kFeatures + n)]);
            const double is = static_cast<double>(scale) * code;
            CHECK(std::isfinite(static_cast<float>(is)) && std::fabs(was - is) <= static_cast<double>(scale) / 2);
        }
        const int most = bits == 8 ? 127 : 7;
        CHECK(row == 1 || row == 4 ? largest == 0 : row == 2 ? largest <= most : largest == most);
    }
    if (bits == 4) CHECK((codes[16 + 8] >> 4) == 8);  // behind the last feature
}

// Features a step apart and rows in another order are the same rows.
void strides_are_followed() {
    const std::vector<float> x = numbers();
    std::vector<float> turned(x.size());
    for (int row = 0; row < kRows; ++row) {
        for (int n = 0; n < kFeatures; ++n) {
            turned[static_cast<std::size_t>(n * kRows + row)] = x[static_cast<std::size_t>(row * kFeatures + n)];
        }
    }
    std::vector<std::int8_t> codes(x.size()), others(2 * x.size(), 99);
    std::vector<float> scales(kRows), apart(2 * kRows, -1.0f);
    qkv::encode(plain(qkv::Element::f32, 8, kFeatures), x.data(), codes.data(), scales.data());
    const qkv::Encoding how{qkv::Element::f32, 8, kFeatures, kRows, {2, 3}, {3, 1}, {6 * kFeatures, 2 * kFeatures}, {6, 2}};
    qkv::encode(how, turned.data(), others.data(), apart.data());
    for (int row = 0; row < kRows; ++row) {
        const std::size_t r = static_cast<std::size_t>(row);
        CHECK(row == 4 ? apart[2 * r] != apart[2 * r] : apart[2 * r] == scales[r]);
        CHECK(apart[2 * r + 1] == -1.0f);
        for (std::size_t n = 0; n < kFeatures; ++n) {
            CHECK(others[2 * r * kFeatures + n] == codes[r * kFeatures + n]);
            CHECK(others[(2 * r + 1) * kFeatures + n] == 99);
        }
    }
}

void nothing_is_written_for_no_rows() {
    float scale = -1.0f;
    std::int8_t code = 99;
    const double row = 1.0;
    qkv::encode({qkv::Element::f64, 8, 1, 1, {3, 0}, {0, 1}, {0, 1}, {0, 1}}, &row, &code, &scale);
    CHECK(scale == -1.0f && code == 99);
    qkv::encode({qkv::Element::f64, 8, 0, 1, {}, {}, {}, {}}, &row, &code, &scale);
    CHECK(scale == 0.0f && code == 99);
}

}  // namespace

int main() {
    errors_are_bounded(8);
    errors_are_bounded(4);
    strides_are_followed();
    nothing_is_written_for_no_rows();
    return qkv::test::report("codec_test");
}
