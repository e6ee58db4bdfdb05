// The door between Python and the compiled core: converts, and computes nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "cpu.h"

namespace nb = nanobind;

namespace {

nb::dict cpu_features() {
    nb::dict out;
    for (const qkv::CpuFeature& feature : qkv::cpu_features()) {
        out[nb::str(feature.name.data(), feature.name.size())] = feature.usable;
    }
    return out;
}

nb::dict cpu_sizes() {
    const qkv::CpuSizes sizes = qkv::cpu_sizes();
    nb::dict out;
    out["num_threads"] = sizes.num_threads;
    out["cache_line_bytes"] = sizes.cache_line_bytes;
    out["l1_data_bytes"] = sizes.l1_data_bytes;
    out["l2_bytes"] = sizes.l2_bytes;
    out["l3_bytes"] = sizes.l3_bytes;
    return out;
}

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "The compiled core of qkv. Use it through qkv.cpu_features and its neighbours.";
    m.def("cpu_features", &cpu_features, "Each known processor feature, and whether it is usable here.");
    m.def("cpu_sizes", &cpu_sizes, "Threads and cache sizes in bytes; 0 where the system does not tell.");
    m.def("compiler", &qkv::compiler, "Name and version of the compiler that built this module.");
}
