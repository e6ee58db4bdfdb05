// Sixteen lanes without AVX-512: its logic, on machines that have none. For tests; never chosen by itself.
#define QKV_TARGET wide
#define QKV_LANES 16
#define QKV_PAIRS

#include "../kernel/table.h"
