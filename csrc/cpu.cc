// Reads the processor and the operating system. What the x86 bits mean is told in cpu_registers.cc.
#include "cpu.h"

#include <algorithm>
#include <array>
#include <thread>

#include "cpu_registers.h"

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#define QKV_X86 1
#if defined(_MSC_VER) && !defined(__clang__)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace qkv {
namespace {

#if defined(QKV_X86)

struct Leaf {
    std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf read_leaf(std::uint32_t leaf, std::uint32_t subleaf) {
    Leaf out;
#if defined(_MSC_VER) && !defined(__clang__)
    int words[4] = {};
    __cpuidex(words, static_cast<int>(leaf), static_cast<int>(subleaf));
    out = {static_cast<std::uint32_t>(words[0]), static_cast<std::uint32_t>(words[1]),
           static_cast<std::uint32_t>(words[2]), static_cast<std::uint32_t>(words[3])};
#else
    __cpuid_count(leaf, subleaf, out.eax, out.ebx, out.ecx, out.edx);
#endif
    return out;
}

std::uint64_t read_saved_state() {
#if defined(_MSC_VER) && !defined(__clang__)
    return _xgetbv(0);
#else
    // Spelled as an instruction: the intrinsic would need a compiler flag for the whole file.
    std::uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
#endif
}

// Linux keeps tiles for the processes that ask, and for all of their threads; it may say no. Other systems are not known to.
bool may_use_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long ask = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM and the state's number, linux/arch/x86/xstate.rst
    return syscall(SYS_arch_prctl, ask, tile_data) == 0;
#else
    return false;
#endif
}

CpuRegisters read_registers() {
    CpuRegisters registers;
    const std::uint32_t last_leaf = read_leaf(0, 0).eax;
    if (last_leaf >= 1) registers.leaf1_ecx = read_leaf(1, 0).ecx;
    if (last_leaf >= 7) {
        const Leaf leaf = read_leaf(7, 0);
        registers.leaf7_ebx = leaf.ebx;
        registers.leaf7_ecx = leaf.ecx;
        registers.leaf7_edx = leaf.edx;
        if (leaf.eax >= 1) registers.leaf7_1_eax = read_leaf(7, 1).eax;
    }
    // Without this bit the system has not enabled the control register and reading it would trap.
    const bool readable = (registers.leaf1_ecx >> 27) & 1u;
    if (readable) registers.saved_state = read_saved_state();
    if ((registers.saved_state & tile_state) && !may_use_tiles()) registers.saved_state &= ~tile_state;
    return registers;
}

#else

// Another processor: all bits zero, so that the x86 names are listed and none is usable.
CpuRegisters read_registers() { return {}; }

#endif

constexpr bool has_neon() {
#if defined(__ARM_NEON) || defined(_M_ARM64)
    return true;  // part of every 64-bit Arm processor; on 32-bit Arm the compiler was told
#else
    return false;
#endif
}

constexpr std::size_t num_features = num_x86_features + 1;

std::array<CpuFeature, num_features> probe() {
    std::array<CpuFeature, num_features> features;
    const auto x86 = decode(read_registers());
    std::copy(x86.begin(), x86.end(), features.begin());
    features.back() = {"neon", has_neon()};
    return features;
}

int count_threads() {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    // Fails on machines with more processors than the fixed set holds; then the general count serves.
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

#if defined(__linux__)
std::size_t system_size(int name) {
    const long value = sysconf(name);
    return value > 0 ? static_cast<std::size_t>(value) : 0;
}
#elif defined(__APPLE__)
std::size_t system_size(const char* name) {
    std::size_t value = 0, length = sizeof value;
    return sysctlbyname(name, &value, &length, nullptr, 0) == 0 ? value : 0;
}
#endif

}  // namespace

std::span<const CpuFeature> cpu_features() {
    static const auto features = probe();
    return features;
}

CpuSizes cpu_sizes() {
    CpuSizes sizes{count_threads(), 0, 0, 0, 0};
#if defined(__linux__) && defined(_SC_LEVEL1_DCACHE_LINESIZE)
    sizes.cache_line_bytes = system_size(_SC_LEVEL1_DCACHE_LINESIZE);
    sizes.l1_data_bytes = system_size(_SC_LEVEL1_DCACHE_SIZE);
    sizes.l2_bytes = system_size(_SC_LEVEL2_CACHE_SIZE);
    sizes.l3_bytes = system_size(_SC_LEVEL3_CACHE_SIZE);
#elif defined(__APPLE__)
    sizes.cache_line_bytes = system_size("hw.cachelinesize");
    sizes.l1_data_bytes = system_size("hw.l1dcachesize");
    sizes.l2_bytes = system_size("hw.l2cachesize");
    sizes.l3_bytes = system_size("hw.l3cachesize");
#endif
    return sizes;
}

std::string compiler() {
#if defined(__clang__)
    return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__) + "." +
           std::to_string(__clang_patchlevel__);
#elif defined(__GNUC__)
    return "gcc " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__) + "." +
           std::to_string(__GNUC_PATCHLEVEL__);
#elif defined(_MSC_VER)
    return "msvc " + std::to_string(_MSC_VER);
#else
    return "unknown";
#endif
}

}  // namespace qkv
