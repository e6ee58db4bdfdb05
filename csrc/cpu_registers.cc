#include "cpu_registers.h"

namespace qkv {
namespace {

using Field = std::uint32_t CpuRegisters::*;

struct Row {
    std::string_view name;
    Field field;
    int bit;
    std::uint64_t state;  // bits of the extended control register that must all be set
};

constexpr std::uint64_t none = 0;
constexpr std::uint64_t ymm = 0x6;         // xmm and the upper halves of ymm
constexpr std::uint64_t zmm = ymm | 0xe0;  // and the mask registers, the upper halves of zmm, zmm16 to zmm31
constexpr std::uint64_t tile = tile_state;

constexpr std::array<Row, num_x86_features> rows{{
    {"sse4_2", &CpuRegisters::leaf1_ecx, 20, none},
    {"avx", &CpuRegisters::leaf1_ecx, 28, ymm},
    {"f16c", &CpuRegisters::leaf1_ecx, 29, ymm},
    {"fma", &CpuRegisters::leaf1_ecx, 12, ymm},
    {"avx2", &CpuRegisters::leaf7_ebx, 5, ymm},
    {"avx512f", &CpuRegisters::leaf7_ebx, 16, zmm},
    {"avx512bw", &CpuRegisters::leaf7_ebx, 30, zmm},
    {"avx512dq", &CpuRegisters::leaf7_ebx, 17, zmm},
    {"avx512vl", &CpuRegisters::leaf7_ebx, 31, zmm},
    {"avx512_vnni", &CpuRegisters::leaf7_ecx, 11, zmm},
    {"avx512_bf16", &CpuRegisters::leaf7_1_eax, 5, zmm},
    {"amx_tile", &CpuRegisters::leaf7_edx, 24, tile},
    {"amx_bf16", &CpuRegisters::leaf7_edx, 22, tile},
    {"amx_int8", &CpuRegisters::leaf7_edx, 25, tile},
}};

}  // namespace

std::array<CpuFeature, num_x86_features> decode(const CpuRegisters& registers) {
    std::array<CpuFeature, num_x86_features> features;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const Row& row = rows[i];
        const bool announced = (registers.*row.field >> row.bit) & 1u;
        const bool kept = (registers.saved_state & row.state) == row.state;
        features[i] = {row.name, announced && kept};
    }
    return features;
}

}  // namespace qkv
