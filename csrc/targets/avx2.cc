// AVX2 with fused multiply-add and half-precision conversion.
#define QKV_TARGET avx2
#define QKV_LANES 8

#include "../kernel/table.h"
