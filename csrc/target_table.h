// What every target offers: one table of functions, filled once for each target by csrc/kernel/table.h.
//
// Knows the kernels by their signatures. Refuses the standard library: target code includes this, and what the
// linker keeps of a template compiled there could hold instructions that other machines lack.
#pragma once

#include <stdint.h>

namespace qkv {

// Loops that do nothing but what they measure (csrc/probe.h). A round of multiply-adds counts the flops beside it.
struct ProbeLoops {
    float (*fma_f32)(int64_t rounds);
    double (*fma_f64)(int64_t rounds);
    float (*fma_bf16)(int64_t rounds);  // bfloat16 pairs where the target multiplies them, else fma_f32
    int flops_f32, flops_f64, flops_bf16;
    float (*read)(const float* from, int64_t count);  // count: a multiple of read_group
    int64_t read_group;
};

struct Target {
    const char* name;
    int num_lanes;  // floats in a vector
    ProbeLoops probe{};
};

}  // namespace qkv
