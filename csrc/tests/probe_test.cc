// The probe's loops compute what they say, on every target of this machine, and its figures are possible ones.
#include <cmath>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "probe.h"
#include "targets.h"

namespace {

void loops_compute(const qkv::Target& target) {
    const qkv::ProbeLoops& loops = target.probe;
    CHECK(loops.flops_f32 == 2 * loops.flops_f64);
    CHECK(loops.flops_bf16 >= loops.flops_f32);
    // After many rounds each lane of each chain is at the fixed point of x * 0.999 + 0.001, which is 1.
    CHECK(std::abs(2 * loops.fma_f32(100'000) / loops.flops_f32 - 1) < 1e-3f);
    CHECK(std::abs(2 * loops.fma_f64(100'000) / loops.flops_f64 - 1) < 1e-9);
    CHECK(std::isfinite(loops.fma_bf16(1000)));
    std::vector<float> values(static_cast<std::size_t>(3 * loops.read_group), 0.0f);
    for (std::size_t n = 0; n < values.size(); ++n) {
        values[n] = 1.0f;
        CHECK(loops.read(values.data(), 3 * loops.read_group) == 1.0f);  // every element is read, once
        values[n] = 0.0f;
    }
}

void names_are_known() {
    CHECK(qkv::probe_type("float32") == qkv::ProbeType::f32);
    CHECK(qkv::probe_type("float64") == qkv::ProbeType::f64);
    CHECK(qkv::probe_type("bfloat16") == qkv::ProbeType::bf16);
    bool refused = false;
    try {
        qkv::probe_type("float16");
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    CHECK(refused);
}

void figures_are_possible() {
    for (const qkv::ProbeType type : {qkv::ProbeType::f32, qkv::ProbeType::f64, qkv::ProbeType::bf16}) {
        const double flops = qkv::probe_fma_flops(1, type);
        CHECK(flops > 1e6 && flops < 1e13);
    }
    CHECK(qkv::probe_fma_flops(2, qkv::ProbeType::f32) > 0);
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1} << 20}) {
        const double read = qkv::probe_read_bandwidth(2, bytes);
        CHECK(read > 1e6 && read < 1e14);
    }
}

}  // namespace

int main() {
    for (const qkv::TargetRow* row : qkv::usable_targets(qkv::target_rows(), qkv::cpu_features())) {
        loops_compute(*row->table);
    }
    names_are_known();
    figures_are_possible();
    return qkv::test::report("probe_test");
}
