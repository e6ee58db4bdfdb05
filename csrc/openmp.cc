// Looks GOMP_parallel up.
#include "openmp.h"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

namespace qkv {

Team openmp_team() {
#if defined(__unix__) || defined(__APPLE__)
    return reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
#else
    return nullptr;
#endif
}

}  // namespace qkv
