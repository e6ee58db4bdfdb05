// What the compiler assumes of every machine of its architecture.
#define QKV_TARGET portable
#ifndef QKV_LANES  // csrc/tests/faults.py makes it with more
#define QKV_LANES 4
#endif

#include "../kernel/table.h"
