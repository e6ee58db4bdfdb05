// The door between Python and the compiled core: converts, and computes nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "cpu.h"
#include "graph.h"
#include "openmp.h"
#include "pool.h"
#include "probe.h"
#include "targets.h"

namespace nb = nanobind;

void register_attention(nanobind::module_& m);  // door_attention.cc
void register_codec(nanobind::module_& m);  // door_codec.cc
void register_terms(nanobind::module_& m);  // door_terms.cc

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

nb::list cpu_targets() {
    nb::list out;
    for (const qkv::TargetRow* row : qkv::usable_targets(qkv::target_rows(), qkv::cpu_features())) {
        out.append(nb::str(row->name.data(), row->name.size()));
    }
    return out;
}

std::string cpu_target() { return qkv::target().name; }

void use_cpu_target(const std::string& name) { qkv::use_target(name); }

double probe_fma_flops(int num_threads, const std::string& dtype) {
    const qkv::ProbeType type = qkv::probe_type(dtype);
    const nb::gil_scoped_release released;
    return qkv::probe_fma_flops(num_threads, type);
}

double probe_read_bandwidth(int num_threads, std::size_t bytes) {
    const nb::gil_scoped_release released;
    return qkv::probe_read_bandwidth(num_threads, bytes);
}

// Tasks are run by the OpenMP threads of this process from now on, where there are any, or by the pool's own; whether they
// are there.
bool ride(bool openmp) {
    qkv::ride(openmp ? qkv::openmp_team() : nullptr);
    return qkv::rides();
}

// The core's own errors become those of qkv.errors, whichever door they come through.
void translate(const std::exception_ptr& raised, void*) {
    try {
        std::rethrow_exception(raised);
    } catch (const qkv::TargetError& error) {
        PyErr_SetString(nb::module_::import_("qkv.errors").attr("TargetError").ptr(), error.what());
    } catch (const qkv::GraphError& error) {
        const std::string text = std::string(error.what()) + "; please report this";
        PyErr_SetString(nb::module_::import_("qkv.errors").attr("InternalError").ptr(), text.c_str());
    }
}

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "The compiled core of qkv. Use it through qkv.cpu_features and its neighbours.";
    nb::register_exception_translator(&translate);
    // Specs hold programs as long as their owners hold specs, which may be until after the module is gone.
    nb::set_leak_warnings(false);
    m.def("cpu_features", &cpu_features, "Each known processor feature, and whether it is usable here.");
    m.def("cpu_sizes", &cpu_sizes, "Threads and cache sizes in bytes; 0 where the system does not tell.");
    m.def("cpu_targets", &cpu_targets, "Names of the targets that were built and can run here, best first.");
    m.def("cpu_target", &cpu_target, "Name of the target in use.");
    m.def("use_cpu_target", &use_cpu_target, nb::arg("name"), "Uses the named target from now on; \"\" chooses anew.");
    m.def("probe_fma_flops", &probe_fma_flops, nb::arg("num_threads"), nb::arg("dtype"),
          "Floating-point operations in a second by multiply-adds in registers alone, measured.");
    m.def("probe_read_bandwidth", &probe_read_bandwidth, nb::arg("num_threads"), nb::arg("bytes"),
          "Bytes read in a second from an array of this size that is read again and again, measured.");
    m.def("compiler", &qkv::compiler, "Name and version of the compiler that built this module.");
    m.def("ride", &ride, nb::arg("openmp"), "Runs tasks by the threads of an OpenMP runtime, or by own ones; whether there is one to ride.");
    m.def("rides", &qkv::rides, "Whether tasks are run by an OpenMP runtime's threads.");
    register_attention(m);
    register_codec(m);
    register_terms(m);
}
