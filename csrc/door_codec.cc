// The door for codes: where rows lie and where codes go become what csrc/codec.h knows; addresses arrive as whole numbers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <vector>

#include "codec.h"
#include "graph.h"

namespace nb = nanobind;

namespace {

using Sizes = std::vector<int64_t>;

constexpr int64_t kLongEnough = 1 << 14;  // features; fewer are encoded before another thread would have taken the lock

void encode(std::uintptr_t rows, int element, int bits, const Sizes& sizes, const Sizes& row_strides, std::uintptr_t codes,
            const Sizes& code_strides, std::uintptr_t scales, const Sizes& scale_strides) {
    const std::size_t axes = scale_strides.size();
    if (element < 0 || element > static_cast<int>(qkv::Element::f16) || (bits != 8 && bits != 4) || sizes.size() != axes + 1 ||
        row_strides.size() != axes + 1 || code_strides.size() != axes + 1 || code_strides.back() != 1) {
        throw qkv::GraphError("rows and codes that do not fit each other");
    }
    int64_t work = 1;
    for (const int64_t size : sizes) {
        if (size < 0) throw qkv::GraphError("rows of a negative size");
        work *= size;
    }
    const qkv::Encoding how{static_cast<qkv::Element>(element), bits, sizes.back(), row_strides.back(), Sizes(sizes.begin(), sizes.end() - 1),
                            Sizes(row_strides.begin(), row_strides.end() - 1), Sizes(code_strides.begin(), code_strides.end() - 1),
                            scale_strides};
    const auto run = [&] {
        qkv::encode(how, reinterpret_cast<const void*>(rows), reinterpret_cast<void*>(codes), reinterpret_cast<float*>(scales));
    };
    if (work < kLongEnough) return run();
    const nb::gil_scoped_release released;
    run();
}

}  // namespace

void register_codec(nb::module_& m) {
    m.def("encode", &encode, nb::arg("rows"), nb::arg("element"), nb::arg("bits"), nb::arg("sizes"), nb::arg("row_strides"),
          nb::arg("codes"), nb::arg("code_strides"), nb::arg("scales"), nb::arg("scale_strides"),
          "Writes codes and scales of rows at these addresses.");
}
