# The kernels, compiled once for each instruction set with flags of its own. Which one runs is chosen in csrc/targets.cc.
#
# Gives QKV_TARGET_NAMES, QKV_TARGET_OBJECTS (object files) and QKV_TARGET_DEFINITIONS (QKV_WITH_NAME for each).
include(CheckCXXSourceCompiles)

# A target is built where the compiler takes its flags and means by them the architecture that they belong to.
function(qkv_can_build result needed_macro)
  string(REPLACE ";" " " CMAKE_REQUIRED_FLAGS "${ARGN}")
  check_cxx_source_compiles("
    #if !defined(${needed_macro})
    #error another architecture
    #endif
    int main() { return 0; }" ${result})
endfunction()

set(QKV_AVX2_FLAGS -mavx2 -mfma -mf16c)
set(QKV_AVX512_FLAGS ${QKV_AVX2_FLAGS} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
set(QKV_AVX512BF16_FLAGS ${QKV_AVX512_FLAGS} -mavx512bf16)
set(QKV_AMX_FLAGS ${QKV_AVX512BF16_FLAGS} -mamx-tile -mamx-bf16)
qkv_can_build(QKV_HAS_AVX2 __AVX2__ ${QKV_AVX2_FLAGS})
qkv_can_build(QKV_HAS_AVX512 __AVX512VL__ ${QKV_AVX512_FLAGS})
qkv_can_build(QKV_HAS_AVX512BF16 __AVX512BF16__ ${QKV_AVX512BF16_FLAGS})
qkv_can_build(QKV_HAS_AMX __AMX_BF16__ ${QKV_AMX_FLAGS})
qkv_can_build(QKV_HAS_NEON __aarch64__)

set(QKV_TARGET_NAMES)
set(QKV_TARGET_OBJECTS)
set(QKV_TARGET_DEFINITIONS)

# Products may be fused into sums; NaN, infinity and the order of sums are what the source says, so never -ffast-math.
set(QKV_KERNEL_FLAGS -ffp-contract=fast -fno-math-errno -fno-trapping-math)
# Optimising what a sanitizer has instrumented costs minutes, and hides accesses from it.
if(QKV_SANITIZE)
  list(APPEND QKV_KERNEL_FLAGS -O0)
else()
  list(APPEND QKV_KERNEL_FLAGS -O3)
endif()
# Vectors wider than the machine's are passed between functions of one file only.
list(APPEND QKV_KERNEL_FLAGS -Wno-psabi)
# gcc's own AVX-512 header makes an "undefined" vector by reading it: gcc.gnu.org/PR105593.
list(APPEND QKV_KERNEL_FLAGS $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)

function(qkv_add_target name)
  if(QKV_TARGETS AND NOT name IN_LIST QKV_TARGETS AND NOT name STREQUAL "portable")
    return()
  endif()
  set(objects)
  foreach(part "" _terms)
    set(library qkv_target_${name}${part})
    add_library(${library} OBJECT csrc/targets/${name}.cc)
    target_compile_options(${library} PRIVATE ${QKV_KERNEL_FLAGS} ${ARGN})
    target_link_libraries(${library} PRIVATE qkv_flags)
    list(APPEND objects $<TARGET_OBJECTS:${library}>)
  endforeach()
  target_compile_definitions(qkv_target_${name}_terms PRIVATE QKV_TERMS_ALONE)
  string(TOUPPER ${name} upper)
  set(QKV_TARGET_NAMES ${QKV_TARGET_NAMES} ${name} PARENT_SCOPE)
  set(QKV_TARGET_OBJECTS ${QKV_TARGET_OBJECTS} ${objects} PARENT_SCOPE)
  set(QKV_TARGET_DEFINITIONS ${QKV_TARGET_DEFINITIONS} QKV_WITH_${upper} PARENT_SCOPE)
endfunction()

qkv_add_target(portable)
if(QKV_HAS_AVX2)
  qkv_add_target(avx2 ${QKV_AVX2_FLAGS})
endif()
if(QKV_HAS_AVX512)
  qkv_add_target(avx512 ${QKV_AVX512_FLAGS})
endif()
if(QKV_HAS_AVX512BF16)
  qkv_add_target(avx512bf16 ${QKV_AVX512BF16_FLAGS})
endif()
if(QKV_HAS_AMX)
  qkv_add_target(amx ${QKV_AMX_FLAGS})
endif()
if(QKV_HAS_NEON)
  qkv_add_target(neon)
endif()
# -O1: it is slow anyway, and vectors that the machine lacks take minutes to optimise.
if(QKV_WIDE)
  if(QKV_HAS_AVX2)
    qkv_add_target(wide ${QKV_AVX2_FLAGS} -O1)
  else()
    qkv_add_target(wide -O1)
  endif()
endif()
