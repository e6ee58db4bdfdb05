// Reads fabricated registers (any machine tests every other) and then the machine it runs on.
#include <set>
#include <string>

#include "check.h"
#include "cpu_registers.h"

namespace {

bool usable(const qkv::CpuRegisters& registers, std::string_view name) {
    for (const qkv::CpuFeature& feature : qkv::decode(registers)) {
        if (feature.name == name) return feature.usable;
    }
    CHECK(!"a feature of this name");
    return false;
}

int count_usable(const qkv::CpuRegisters& registers) {
    int count = 0;
    for (const qkv::CpuFeature& feature : qkv::decode(registers)) count += feature.usable;
    return count;
}

constexpr std::uint32_t all = 0xffffffffu;
constexpr std::uint64_t xmm_ymm = 0x7;
constexpr std::uint64_t with_zmm = 0xe7;
constexpr std::uint64_t with_tiles = 0x600e7;

qkv::CpuRegisters everything(std::uint64_t saved_state) { return {all, all, all, all, all, saved_state}; }

void a_feature_needs_its_saved_state() {
    CHECK(count_usable({}) == 0);
    CHECK(count_usable(everything(0)) == 1);
    CHECK(usable(everything(0), "sse4_2"));
    CHECK(!usable(everything(0), "avx"));
    CHECK(!usable(everything(0x2), "avx"));  // xmm alone
    CHECK(usable(everything(xmm_ymm), "avx2"));
    CHECK(usable(everything(xmm_ymm), "fma"));
    CHECK(usable(everything(xmm_ymm), "f16c"));
    CHECK(!usable(everything(xmm_ymm), "avx512f"));
    CHECK(!usable(everything(0xc7), "avx512f"));  // the mask registers are not kept
    CHECK(usable(everything(with_zmm), "avx512_bf16"));
    CHECK(!usable(everything(with_zmm), "amx_tile"));
    CHECK(count_usable(everything(with_tiles)) == static_cast<int>(qkv::num_x86_features));
}

void one_bit_announces_one_feature() {
    struct Case {
        const char* name;
        qkv::CpuRegisters registers;
    };
    const Case cases[] = {
        {"fma", {1u << 12, 0, 0, 0, 0, with_tiles}},         {"sse4_2", {1u << 20, 0, 0, 0, 0, with_tiles}},
        {"avx", {1u << 28, 0, 0, 0, 0, with_tiles}},         {"f16c", {1u << 29, 0, 0, 0, 0, with_tiles}},
        {"avx2", {0, 1u << 5, 0, 0, 0, with_tiles}},         {"avx512f", {0, 1u << 16, 0, 0, 0, with_tiles}},
        {"avx512dq", {0, 1u << 17, 0, 0, 0, with_tiles}},    {"avx512bw", {0, 1u << 30, 0, 0, 0, with_tiles}},
        {"avx512vl", {0, 1u << 31, 0, 0, 0, with_tiles}},    {"avx512_vnni", {0, 0, 1u << 11, 0, 0, with_tiles}},
        {"amx_bf16", {0, 0, 0, 1u << 22, 0, with_tiles}},    {"amx_tile", {0, 0, 0, 1u << 24, 0, with_tiles}},
        {"amx_int8", {0, 0, 0, 1u << 25, 0, with_tiles}},    {"avx512_bf16", {0, 0, 0, 0, 1u << 5, with_tiles}},
    };
    CHECK(std::size(cases) == qkv::num_x86_features);
    for (const Case& c : cases) {
        CHECK(count_usable(c.registers) == 1);
        CHECK(usable(c.registers, c.name));
    }
}

void this_machine_is_consistent() {
    std::set<std::string> names;
    for (const qkv::CpuFeature& feature : qkv::cpu_features()) names.emplace(feature.name);
    CHECK(names.size() == qkv::num_x86_features + 1);
    CHECK(names.count("neon") == 1);
    CHECK(qkv::cpu_features().data() == qkv::cpu_features().data());  // probed once

    const qkv::CpuSizes sizes = qkv::cpu_sizes();
    CHECK(sizes.num_threads >= 1);
    CHECK(sizes.cache_line_bytes == 0 || (sizes.cache_line_bytes & (sizes.cache_line_bytes - 1)) == 0);
    CHECK(sizes.l2_bytes == 0 || sizes.l2_bytes >= sizes.l1_data_bytes);
    CHECK(!qkv::compiler().empty());
}

}  // namespace

int main() {
    a_feature_needs_its_saved_state();
    one_bit_announces_one_feature();
    this_machine_is_consistent();
    return qkv::test::report("cpu_test");
}
