// AVX-512 F, BW, DQ and VL.
#define QKV_TARGET avx512
#define QKV_LANES 16

#include "../kernel/table.h"
