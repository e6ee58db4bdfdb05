// What every target offers: one table of functions, filled once for each target by csrc/kernel/table.h.
//
// Knows the kernels by their signatures. Refuses the standard library: target code includes this, and what the
// linker keeps of a template compiled there could hold instructions that other machines lack.
#pragma once

#include "attention.h"
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
    bool rounds_weights;  // to bfloat16, where queries, keys, values and outputs are of it (csrc/kernel/pairs.h)
    Schedule (*forward_schedule)(const Forward&, int num_threads);
    // Both return or take nothing of other tasks. A task answers the lookup that left its table, or -1.
    int32_t (*forward_task)(const Forward&, const Schedule&, int64_t task, void* scratch, void* partials);
    void (*forward_merge)(const Forward&, const Schedule&, int64_t task, void* scratch, void* partials);
    BackwardSchedule (*backward_schedule)(const Backward&);
    // `table_grads` as the schedule's own_tables asks for: accumulators of the call, or num_slots of each. A slot
    // answers the lookup that left its table, or -1. The merge is for several parts only, one shared element a time.
    int32_t (*backward_slot)(const Backward&, const BackwardSchedule&, int64_t slot, void* scratch, void* partials,
                             void* const* table_grads);
    void (*backward_merge)(const Backward&, const BackwardSchedule&, int64_t shared, void* partials);
    // The terms by themselves, as tests and debugging look at them: the functions of csrc/kernel/terms.h.
    void (*terms_f)(const Terms&, const Place&, float* s, int64_t stride, bool masked, Scratch&);
    void (*terms_d)(const Terms&, const Place&, double* s, int64_t stride, bool masked, Scratch&);
    void (*terms_backward_f)(const Terms&, const Place&, const float* raw, int64_t raw_stride, float* ds, int64_t stride,
                             bool masked, float* const* table_grads, Scratch&);
    void (*terms_backward_d)(const Terms&, const Place&, const double* raw, int64_t raw_stride, double* ds, int64_t stride,
                             bool masked, double* const* table_grads, Scratch&);
    void (*terms_rows)(const Terms&, const Place&, int32_t* out, int64_t stride, Scratch&);
    ProbeLoops probe{};
};

}  // namespace qkv
