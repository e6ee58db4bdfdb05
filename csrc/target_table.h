// What every target offers: one table of functions, filled once for each target by csrc/kernel/table.h.
//
// Knows the kernels by their signatures. Refuses the standard library: target code includes this, and what the
// linker keeps of a template compiled there could hold instructions that other machines lack.
#pragma once

namespace qkv {

struct Target {
    const char* name;
    int num_lanes;  // floats in a vector
};

}  // namespace qkv
