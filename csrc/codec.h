// Rows of features become codes of 8 or 4 bits with a scale: what quantized caches hold.
//
// The rule is that of src/qkv/cache/codec.py, bit for bit. Knows where rows lie and where codes go; refuses to know
// caches.
#pragma once

#include <cstdint>
#include <vector>

#include "elements.h"

namespace qkv {

// Rows at every place of some axes. Strides are in elements: of rows, of bytes of codes, of scales; codes of a row lie
// beside one another.
struct Encoding {
    Element element;  // of the rows: no code
    int bits;         // 8 or 4
    std::int64_t feature_size, feature_stride;
    std::vector<std::int64_t> sizes, row_strides, code_strides, scale_strides;
};

void encode(const Encoding& how, const void* rows, void* codes, float* scales);

}  // namespace qkv
