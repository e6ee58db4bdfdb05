// AVX-512 with its bfloat16 products.
#define QKV_TARGET avx512bf16
#define QKV_LANES 16
#define QKV_PAIRS

#include "../kernel/table.h"
