// AVX-512 with its bfloat16 products, and tiles of them.
#define QKV_TARGET amx
#define QKV_LANES 16
#define QKV_PAIRS

#include "../kernel/table.h"
