// The meaning of the x86 identification registers, as a function of their values alone.
//
// Knows which bit announces which feature and which register state the system must keep for it. Refuses to
// read the processor, so that any machine can test any other: a feature bit without its state is not usable.
#pragma once

#include <array>
#include <cstdint>

#include "cpu.h"

namespace qkv {

// CPUID leaves by number, and the extended control register 0 (zero when the system does not enable it).
struct CpuRegisters {
    std::uint32_t leaf1_ecx = 0;
    std::uint32_t leaf7_ebx = 0;
    std::uint32_t leaf7_ecx = 0;
    std::uint32_t leaf7_edx = 0;
    std::uint32_t leaf7_1_eax = 0;
    std::uint64_t saved_state = 0;
};

inline constexpr std::uint64_t tile_state = 0x60000;  // of saved_state: tile configuration and tile data
inline constexpr std::size_t num_x86_features = 14;

// Intel SDM volume 1, chapters 13.3, 14 and 15; volume 2, CPUID.
std::array<CpuFeature, num_x86_features> decode(const CpuRegisters& registers);

}  // namespace qkv
