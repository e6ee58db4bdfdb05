// What the compiler assumes of every machine of its architecture.
#define QKV_TARGET portable
#define QKV_LANES 4

#include "../kernel/table.h"
