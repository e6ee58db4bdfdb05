// The kernels of each instruction set, as tables of functions, and which table this machine uses.
//
// Knows which targets were built, what each needs of the machine, and how one is chosen. Refuses to know what a
// kernel does: it is compiled once for each target from csrc/kernel/, and met here as a pointer.
#pragma once

#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cpu.h"
#include "target_table.h"

namespace qkv {

// A target was asked for that does not exist, was not built, or cannot run here; the text lists those that can.
class TargetError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// What a target is called, what it needs, and its table.
struct TargetRow {
    std::string_view name;
    std::span<const std::string_view> features;  // names of cpu_features(), all needed
    const Target* table;                         // null where this build lacks it
    bool chosen_by_itself;                       // false: only when it is asked for by name
};

// Every target of this version, best first, whether it was built or not.
std::span<const TargetRow> target_rows();

// Those of `rows` that were built and that a machine with `features` can run, best first.
std::vector<const TargetRow*> usable_targets(std::span<const TargetRow> rows, std::span<const CpuFeature> features);

// The best usable row where `name` is empty, else the row of that name. Raises TargetError; `origin` says in its
// text where the name was given.
const TargetRow& choose_target(std::span<const TargetRow> rows, std::span<const CpuFeature> features,
                               std::string_view name, std::string_view origin);

// The target in use. The first call chooses: the environment variable QKV_CPU_TARGET, read then and not again, or
// the best usable one. Raises TargetError, at every call, while that variable names no usable target.
const Target& target();

// Makes target() answer `name` from now on, in every thread, or choose anew where `name` is empty. Raises TargetError.
void use_target(std::string_view name);

}  // namespace qkv
