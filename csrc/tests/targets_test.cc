// Chooses among fabricated targets for fabricated machines, then asks this machine.
#include "targets.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "check.h"

namespace {

using qkv::CpuFeature;
using qkv::Target;
using qkv::TargetRow;

constexpr Target named(const char* name) {
    Target table{};
    table.name = name;
    return table;
}

constexpr Target fast_table = named("fast"), plain_table = named("plain"), odd_table = named("odd");
constexpr std::string_view fast_needs[] = {"alpha", "beta"};
const TargetRow rows[] = {
    {"absent", {}, nullptr, true},
    {"fast", fast_needs, &fast_table, true},
    {"plain", {}, &plain_table, true},
    {"odd", {}, &odd_table, false},
};
const CpuFeature with_both[] = {{"alpha", true}, {"beta", true}};
const CpuFeature with_one[] = {{"alpha", true}, {"beta", false}};

std::string_view chosen(std::span<const CpuFeature> features, std::string_view name) {
    return qkv::choose_target(rows, features, name, "X").name;
}

std::string message(std::span<const CpuFeature> features, std::string_view name) {
    try {
        qkv::choose_target(rows, features, name, "X");
    } catch (const qkv::TargetError& error) {
        return error.what();
    }
    return "nothing was raised";
}

void the_best_usable_is_chosen() {
    CHECK(chosen(with_both, "") == "fast");
    CHECK(chosen(with_one, "") == "plain");
    CHECK(chosen({}, "") == "plain");
    CHECK(qkv::usable_targets(rows, with_both).size() == 3);
    CHECK(qkv::usable_targets(rows, with_one).size() == 2);
}

void a_name_forces_one() {
    CHECK(chosen(with_both, "plain") == "plain");
    CHECK(chosen(with_both, "odd") == "odd");
    CHECK(message(with_both, "fats") ==
          "X is \"fats\", which is no target of this version.\n"
          "  Usable here, best first: fast, plain, odd\n"
          "  Name one of them, or none to let qkv choose.");
    CHECK(message(with_one, "fast") ==
          "X is \"fast\", and this machine lacks what it needs: beta.\n"
          "  Usable here, best first: plain, odd\n"
          "  Name one of them, or none to let qkv choose.");
    CHECK(message(with_both, "absent") ==
          "X is \"absent\", which this build of qkv does not contain.\n"
          "  Usable here, best first: fast, plain, odd\n"
          "  Name one of them, or none to let qkv choose.");
}

void a_machine_that_can_run_none_is_told() {
    const std::span<const TargetRow> none(rows, 2);
    try {
        qkv::choose_target(none, {}, "", "X");
        CHECK(!"raises");
    } catch (const qkv::TargetError& error) {
        CHECK(std::string(error.what()) == "This build of qkv contains no target that this machine can run.");
    }
}

void every_table_bears_its_row_s_name() {
    int num_built = 0;
    for (const TargetRow& row : qkv::target_rows()) {
        if (row.table == nullptr) continue;
        ++num_built;
        CHECK(row.name == row.table->name);
        CHECK(row.table->num_lanes >= 4);
        for (std::string_view need : row.features) {
            bool known = false;
            for (const CpuFeature& feature : qkv::cpu_features()) known = known || feature.name == need;
            CHECK(known);
        }
    }
    CHECK(num_built >= 1);  // the portable one always is
}

void the_environment_is_read_once() {
    setenv("QKV_CPU_TARGET", "no such thing", 1);
    for (int n = 0; n < 2; ++n) {
        try {
            qkv::target();
            CHECK(!"raises");
        } catch (const qkv::TargetError& error) {
            CHECK(std::string(error.what()).starts_with("QKV_CPU_TARGET is \"no such thing\", which is no target"));
        }
    }
    setenv("QKV_CPU_TARGET", "portable", 1);
    CHECK(std::string_view(qkv::target().name) == "portable");
    setenv("QKV_CPU_TARGET", "no such thing", 1);
    CHECK(std::string_view(qkv::target().name) == "portable");

    for (const TargetRow* row : qkv::usable_targets(qkv::target_rows(), qkv::cpu_features())) {
        qkv::use_target(row->name);
        CHECK(&qkv::target() == row->table);
    }
    qkv::use_target("portable");
    try {
        qkv::use_target("narrow");
        CHECK(!"raises");
    } catch (const qkv::TargetError& error) {
        CHECK(std::string(error.what()).starts_with("The target asked for is \"narrow\""));
    }
    CHECK(std::string_view(qkv::target().name) == "portable");

    setenv("QKV_CPU_TARGET", "", 1);  // the same as not set
    qkv::use_target("");
    CHECK(qkv::target().name == qkv::choose_target(qkv::target_rows(), qkv::cpu_features(), "", "").table->name);
}

}  // namespace

int main() {
    the_best_usable_is_chosen();
    a_name_forces_one();
    a_machine_that_can_run_none_is_told();
    every_table_bears_its_row_s_name();
    the_environment_is_read_once();
    return qkv::test::report("targets_test");
}
