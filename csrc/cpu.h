// What the machine offers to the compiled core: features by name, sizes, and the compiler that built it.
//
// Knows that features have names and may be usable. Refuses to know what any of them is: no word of an
// instruction set stands here, so that code including this header compiles for every target.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace qkv {

struct CpuFeature {
    std::string_view name;
    bool usable;  // the processor has it and the operating system keeps its registers
};

// Every name known to this version, on every machine, in a fixed order; probed once.
std::span<const CpuFeature> cpu_features();

struct CpuSizes {
    int num_threads;               // that this process may run on, at least 1
    std::size_t cache_line_bytes;  // this and the caches below: 0 where the system does not tell
    std::size_t l1_data_bytes;
    std::size_t l2_bytes;
    std::size_t l3_bytes;
};

CpuSizes cpu_sizes();

// Name and version, such as "gcc 12.2.0".
std::string compiler();

}  // namespace qkv
