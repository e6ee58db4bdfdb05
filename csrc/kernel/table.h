// The table of one target: every kernel by the name that csrc/target_table.h gives it. Included last by csrc/targets/NAME.cc.
#pragma once

#include "../target_table.h"
#include "entry.h"

#define QKV_TEXT_OF(name) #name
#define QKV_TEXT(name) QKV_TEXT_OF(name)

namespace qkv::QKV_TARGET {

// A constant: code that fills it when the library is loaded would run on machines that lack its instructions.
extern const Target table;
constinit const Target table{
    .name = QKV_TEXT(QKV_TARGET),
    .num_lanes = kLanes,
    .forward_schedule = forward_schedule,
    .forward_task = forward_task,
    .forward_merge = forward_merge,
    .terms_f = apply_terms<float>,
    .terms_d = apply_terms<double>,
    .terms_rows = pair_rows,
};

}  // namespace qkv::QKV_TARGET
