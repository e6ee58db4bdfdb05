// Which target this machine uses. Compiled without any target's flags: it runs before anything is known of the machine.
#include "targets.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

namespace qkv {

// CMakeLists.txt defines QKV_WITH_NAME for each target that it builds.
#define QKV_DECLARE_TARGET(space)  \
    namespace space {              \
    extern const Target table;     \
    }

#if defined(QKV_WITH_AMX)
QKV_DECLARE_TARGET(amx)
#define QKV_TABLE_AMX &amx::table
#else
#define QKV_TABLE_AMX nullptr
#endif
#if defined(QKV_WITH_AVX512BF16)
QKV_DECLARE_TARGET(avx512bf16)
#define QKV_TABLE_AVX512BF16 &avx512bf16::table
#else
#define QKV_TABLE_AVX512BF16 nullptr
#endif
#if defined(QKV_WITH_AVX512)
QKV_DECLARE_TARGET(avx512)
#define QKV_TABLE_AVX512 &avx512::table
#else
#define QKV_TABLE_AVX512 nullptr
#endif
#if defined(QKV_WITH_AVX2)
QKV_DECLARE_TARGET(avx2)
#define QKV_TABLE_AVX2 &avx2::table
#else
#define QKV_TABLE_AVX2 nullptr
#endif
#if defined(QKV_WITH_NEON)
QKV_DECLARE_TARGET(neon)
#define QKV_TABLE_NEON &neon::table
#else
#define QKV_TABLE_NEON nullptr
#endif
#if defined(QKV_WITH_WIDE)
QKV_DECLARE_TARGET(wide)
#define QKV_TABLE_WIDE &wide::table
#else
#define QKV_TABLE_WIDE nullptr
#endif
QKV_DECLARE_TARGET(portable)

namespace {

constexpr std::string_view avx2_needs[] = {"avx2", "fma", "f16c"};
constexpr std::string_view avx512_needs[] = {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"};
constexpr std::string_view avx512bf16_needs[] = {"avx2",     "fma",      "f16c",     "avx512f",
                                                 "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"};
constexpr std::string_view amx_needs[] = {"avx2",     "fma",      "f16c",        "avx512f",  "avx512bw",
                                          "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"};
constexpr std::string_view neon_needs[] = {"neon"};

std::span<const std::string_view> wide_needs() {
#if defined(QKV_WITH_AVX2)
    return avx2_needs;  // it is compiled with the flags of avx2 where there are any
#else
    return {};
#endif
}

bool is_usable(std::span<const CpuFeature> features, std::string_view name) {
    return std::any_of(features.begin(), features.end(),
                       [name](const CpuFeature& feature) { return feature.name == name && feature.usable; });
}

std::vector<std::string_view> missing(const TargetRow& row, std::span<const CpuFeature> features) {
    std::vector<std::string_view> out;
    for (std::string_view name : row.features) {
        if (!is_usable(features, name)) out.push_back(name);
    }
    return out;
}

template <class Names>
std::string joined(const Names& names) {
    std::string out;
    for (std::string_view name : names) out.append(out.empty() ? "" : ", ").append(name);
    return out;
}

std::string why_not(const TargetRow* row, std::span<const CpuFeature> features) {
    if (row == nullptr) return ", which is no target of this version.";
    if (row->table == nullptr) return ", which this build of qkv does not contain.";
    return ", and this machine lacks what it needs: " + joined(missing(*row, features)) + ".";
}

std::atomic<const Target*> in_use{nullptr};

}  // namespace

std::span<const TargetRow> target_rows() {
    static const TargetRow rows[] = {
        {"amx", amx_needs, QKV_TABLE_AMX, true},
        {"avx512bf16", avx512bf16_needs, QKV_TABLE_AVX512BF16, true},
        {"avx512", avx512_needs, QKV_TABLE_AVX512, true},
        {"avx2", avx2_needs, QKV_TABLE_AVX2, true},
        {"neon", neon_needs, QKV_TABLE_NEON, true},
        {"portable", {}, &portable::table, true},
        {"wide", wide_needs(), QKV_TABLE_WIDE, false},
    };
    return rows;
}

std::vector<const TargetRow*> usable_targets(std::span<const TargetRow> rows, std::span<const CpuFeature> features) {
    std::vector<const TargetRow*> out;
    for (const TargetRow& row : rows) {
        if (row.table != nullptr && missing(row, features).empty()) out.push_back(&row);
    }
    return out;
}

const TargetRow& choose_target(std::span<const TargetRow> rows, std::span<const CpuFeature> features,
                               std::string_view name, std::string_view origin) {
    const std::vector<const TargetRow*> usable = usable_targets(rows, features);
    std::vector<std::string_view> names;
    for (const TargetRow* row : usable) {
        if (name.empty() ? row->chosen_by_itself : row->name == name) return *row;
        names.push_back(row->name);
    }
    if (name.empty()) throw TargetError("This build of qkv contains no target that this machine can run.");
    const auto known = std::find_if(rows.begin(), rows.end(), [name](const TargetRow& row) { return row.name == name; });
    std::string text(origin);
    text.append(" is \"").append(name).append("\"").append(why_not(known == rows.end() ? nullptr : &*known, features));
    text.append("\n  Usable here, best first: ").append(joined(names)).append("\n  Name one of them, or none to let qkv choose.");
    throw TargetError(text);
}

const Target& target() {
    const Target* chosen = in_use.load(std::memory_order_acquire);
    if (chosen != nullptr) return *chosen;
    const char* asked = std::getenv("QKV_CPU_TARGET");
    chosen = choose_target(target_rows(), cpu_features(), asked == nullptr ? "" : asked, "QKV_CPU_TARGET").table;
    const Target* before = nullptr;
    // Another thread may have chosen, or been told, meanwhile: its word stands.
    return in_use.compare_exchange_strong(before, chosen) ? *chosen : *before;
}

void use_target(std::string_view name) {
    const Target* chosen = nullptr;
    if (!name.empty()) chosen = choose_target(target_rows(), cpu_features(), name, "The target asked for").table;
    in_use.store(chosen, std::memory_order_release);
}

}  // namespace qkv
