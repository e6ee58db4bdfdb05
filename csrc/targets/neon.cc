// 64-bit Arm, whose vectors hold four floats.
#define QKV_TARGET neon
#define QKV_LANES 4

#include "../kernel/table.h"
