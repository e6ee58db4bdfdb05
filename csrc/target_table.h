// What every target offers: one table of functions, filled once for each target by csrc/kernel/table.h.
//
// Knows the kernels by their signatures. Refuses the standard library: target code includes this, and what the
// linker keeps of a template compiled there could hold instructions that other machines lack.
#pragma once

#include "attention.h"

namespace qkv {

struct Target {
    const char* name;
    int num_lanes;  // floats in a vector
    Schedule (*forward_schedule)(const Forward&, int num_threads);
    // Both return or take nothing of other tasks. A task answers the lookup that left its table, or -1.
    int32_t (*forward_task)(const Forward&, const Schedule&, int64_t task, void* scratch, void* partials);
    void (*forward_merge)(const Forward&, const Schedule&, int64_t task, void* scratch, void* partials);
    // The terms by themselves, as tests and debugging look at them: the functions of csrc/kernel/terms.h.
    void (*terms_f)(const Terms&, const Place&, float* s, int64_t stride, bool masked, Scratch&);
    void (*terms_d)(const Terms&, const Place&, double* s, int64_t stride, bool masked, Scratch&);
    void (*terms_rows)(const Terms&, const Place&, int32_t* out, int64_t stride, Scratch&);
};

}  // namespace qkv
