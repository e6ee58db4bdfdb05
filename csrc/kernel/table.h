// The table of one target: every kernel by the name that csrc/target_table.h gives it. Included last by csrc/targets/NAME.cc,
// which is compiled twice: once for the terms alone, where QKV_TERMS_ALONE is defined, and once for the rest.
#pragma once

#ifdef QKV_TERMS_ALONE
#include "terms.h"
#else

#include "../target_table.h"
#include "entry.h"
#include "entry_backward.h"
#include "probe.h"
#include "vec.h"

#define QKV_TEXT_OF(name) #name
#define QKV_TEXT(name) QKV_TEXT_OF(name)

namespace qkv::QKV_TARGET {

// A constant: code that fills it when the library is loaded would run on machines that lack its instructions.
extern const Target table;
constinit const Target table{
    .name = QKV_TEXT(QKV_TARGET),
    .num_lanes = kLanes,
    .rounds_weights = kHasPairs,
    .forward_schedule = forward_schedule,
    .forward_task = forward_task,
    .forward_merge = forward_merge,
    .backward_schedule = backward_schedule,
    .backward_slot = backward_slot,
    .backward_merge = backward_merge,
    .terms_f = apply_terms<float>,
    .terms_d = apply_terms<double>,
    .terms_backward_f = terms_backward<float>,
    .terms_backward_d = terms_backward<double>,
    .terms_rows = pair_rows,
    .probe = {
        .fma_f32 = &probe_fma<float>,
        .fma_f64 = &probe_fma<double>,
        .fma_bf16 = &probe_bf16,
        .flops_f32 = kProbeFlops<float>,
        .flops_f64 = kProbeFlops<double>,
        .flops_bf16 = kProbeFlopsBf16,
        .read = &probe_read,
        .read_group = kReadGroup,
    },
};

}  // namespace qkv::QKV_TARGET
#endif
