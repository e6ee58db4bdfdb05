// The team of threads that an OpenMP runtime keeps in this process, if one is loaded: torch's, where torch is.
//
// Nothing is linked with OpenMP: the runtime's own entry is looked up among what the process has loaded. GCC's runtime
// and those that stand in for it (LLVM's, Intel's) have it.
#pragma once

#include "pool.h"

namespace qkv {

// nullptr where there is none, or on a system on which it cannot be looked up.
Team openmp_team();

}  // namespace qkv
