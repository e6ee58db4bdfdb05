// Expression graphs that nobody wrote: refused with GraphError, or run on every target without a stray access.
//
// Where a graph is sound: what bounds say of a block holds for its pairs, a place decides about each pair as the pair
// alone does, and every target keeps the same pairs. Tables lie in memory of exactly their size.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "graph.h"
#include "input.h"
#include "targets.h"

namespace {

using namespace qkv;
using test::Input;
using test::Numbers;

std::size_t size_of(Elements elements) {
    switch (elements) {
        case Elements::boolean: case Elements::u8: case Elements::i8: return 1;
        case Elements::i16: case Elements::bf16: case Elements::f16: return 2;
        case Elements::i32: case Elements::f32: return 4;
        default: return 8;
    }
}

struct OwnedTable {
    TableParts parts;
    std::unique_ptr<char[]> memory;
};

void fill(char* at, Elements elements, Numbers& numbers) {
    const auto write = [at](auto value) { std::memcpy(at, &value, sizeof value); };
    const std::uint64_t drawn = numbers.next();
    const bool odd = drawn % 16 == 0;
    const double real = odd ? (drawn & 16 ? INFINITY : NAN) : 4 * numbers.real();
    const auto whole = static_cast<std::int64_t>(odd ? drawn : drawn % 24 - 8);
    switch (elements) {
        case Elements::boolean: return write(static_cast<std::uint8_t>(drawn & 1));
        case Elements::u8: case Elements::i8: return write(static_cast<std::uint8_t>(whole));
        case Elements::i16: return write(static_cast<std::int16_t>(whole));
        case Elements::i32: return write(static_cast<std::int32_t>(whole));
        case Elements::i64: return write(whole);
        case Elements::f32: return write(static_cast<float>(real));
        case Elements::f64: return write(real);
        default: return write(static_cast<std::uint16_t>(drawn));
    }
}

OwnedTable make_table(Input& in, Numbers& numbers) {
    OwnedTable out;
    out.parts.table.elements = static_cast<Elements>(in.range(0, static_cast<int>(Elements::f16)));
    out.parts.learn = in.one_in(2);
    std::int64_t extent = 1;
    for (std::int64_t axes = in.range(0, 3); axes > 0; --axes) {
        const std::int64_t size = in.range(1, 9), stride = in.one_in(8) ? 0 : extent * in.range(1, 2);
        out.parts.sizes.push_back(size), out.parts.strides.push_back(stride);
        extent += (size - 1) * stride;
    }
    const std::size_t each = size_of(out.parts.table.elements);
    out.memory.reset(new char[static_cast<std::size_t>(extent) * each]);
    for (std::int64_t n = 0; n < extent; ++n) fill(out.memory.get() + static_cast<std::size_t>(n) * each, out.parts.table.elements, numbers);
    out.parts.table.data = out.memory.get();
    out.parts.table.count = 0;
    return out;
}

Kind kind_of(Elements elements) {
    if (elements == Elements::boolean) return Kind::boolean;
    return elements >= Elements::f32 ? Kind::real : Kind::whole;
}

int arity_of(Op op) {
    if (op <= Op::lookup) return 0;
    if (op == Op::select) return 3;
    if (op == Op::logical_not || (op >= Op::neg && op <= Op::floor)) return 1;
    return 2;
}

// The kind that operations give to operands of these kinds, so that most graphs are sound.
Kind result_kind(Op op, const std::vector<Node>& nodes, const Node& node) {
    Kind largest = Kind::whole;
    for (int n = 0; n < arity_of(op); ++n) largest = std::max(largest, nodes[static_cast<std::size_t>(node.operands[n])].kind);
    switch (op) {
        case Op::position: case Op::index: case Op::size: case Op::floor: return Kind::whole;
        case Op::add: case Op::sub: case Op::mul: case Op::floordiv: case Op::mod: case Op::min: case Op::max:
        case Op::neg: case Op::abs: return largest;
        case Op::lt: case Op::le: case Op::eq: case Op::ne: case Op::gt: case Op::ge: case Op::logical_and:
        case Op::logical_or: case Op::logical_xor: case Op::logical_not: return Kind::boolean;
        case Op::select: return std::max(nodes[static_cast<std::size_t>(node.operands[1])].kind, nodes[static_cast<std::size_t>(node.operands[2])].kind);
        default: return Kind::real;
    }
}

// A node whose kind is allowed, or -1.
template <class Allowed>
std::int32_t pick(Input& in, const std::vector<Node>& nodes, const Allowed& allowed) {
    const auto count = static_cast<std::int64_t>(nodes.size()), start = count > 0 ? in.range(0, count - 1) : 0;
    for (std::int64_t n = 0; n < count; ++n) {
        const std::int64_t at = (start + n) % count;
        if (allowed(nodes[static_cast<std::size_t>(at)].kind)) return static_cast<std::int32_t>(at);
    }
    return -1;
}

bool wants_truth(Op op, int operand) {
    return (op >= Op::logical_and && op <= Op::logical_not) || (op == Op::select && operand == 0);
}

Node make_node(Input& in, const Parts& parts, const std::vector<OwnedTable>& tables) {
    Node node{};
    const auto count = static_cast<std::int64_t>(parts.nodes.size());
    node.op = static_cast<Op>(count < 4 ? in.range(0, 3) : in.range(0, static_cast<int>(Op::count) - 1));
    if (node.op == Op::score && !in.one_in(4)) node.op = Op::position;  // a mask that reads the score is refused
    if (node.op == Op::lookup && tables.empty()) node.op = Op::index;
    const auto is_truth = [](Kind kind) { return kind == Kind::boolean; };
    const auto is_any = [](Kind) { return true; };
    if (wants_truth(node.op, 0) && pick(in, parts.nodes, is_truth) < 0) node.op = Op::lt;
    for (int n = 0; n < arity_of(node.op); ++n) {
        node.operands[n] = wants_truth(node.op, n) ? pick(in, parts.nodes, is_truth) : pick(in, parts.nodes, is_any);
    }
    node.kind = result_kind(node.op, parts.nodes, node);
    if (node.op == Op::constant) {
        node.kind = static_cast<Kind>(in.range(0, 2));
        node.whole = node.kind == Kind::boolean ? in.range(0, 1) : in.one_in(8) ? static_cast<std::int64_t>(in.word()) : in.range(-8, 40);
        node.real = in.one_in(12) ? std::numeric_limits<double>::infinity() : static_cast<double>(in.range(-64, 64)) / 8;
    } else if (node.op <= Op::size) {
        node.which = static_cast<std::int32_t>(in.range(0, parts.num_coordinates - 1));
    } else if (node.op == Op::lookup && !tables.empty()) {
        node.which = static_cast<std::int32_t>(in.range(0, static_cast<std::int64_t>(tables.size()) - 1));
        const TableParts& table = tables[static_cast<std::size_t>(node.which)].parts;
        node.kind = kind_of(table.table.elements);
        for (std::size_t n = 0; n < table.sizes.size(); ++n) {
            node.indices.push_back(pick(in, parts.nodes, [](Kind kind) { return kind != Kind::real; }));
        }
    }
    return node;
}

// What no caller would give.
void spoil(Input& in, Node& node) {
    switch (in.range(0, 4)) {
        case 0: node.operands[in.range(0, 2)] = static_cast<std::int32_t>(in.word()); break;
        case 1: node.which = static_cast<std::int32_t>(in.word()); break;
        case 2: node.kind = static_cast<Kind>(in.byte()); break;
        case 3: node.op = static_cast<Op>(in.byte()); break;
        default: node.indices.assign(static_cast<std::size_t>(in.range(0, 70)), static_cast<std::int32_t>(in.range(-1, 40)));
    }
}

// The last node of this kind, or -1; now and then a number that is no node.
std::int32_t last_of(Input& in, const Parts& parts, Kind kind) {
    if (in.one_in(200)) return static_cast<std::int32_t>(in.word());
    for (auto n = static_cast<std::int32_t>(parts.nodes.size()); n-- > 0;) {
        if (parts.nodes[static_cast<std::size_t>(n)].kind == kind) return n;
    }
    return -1;
}

struct Sizes {
    std::int64_t shared, rows, keys;
};

struct FreeAligned {
    void operator()(char* at) const { std::free(at); }
};

template <class T>
std::vector<T> run(const Target& target, const Terms& terms, const Place& place, const std::vector<T>& raw, bool masked) {
    std::vector<T> s = raw;
    const std::unique_ptr<char, FreeAligned> memory(static_cast<char*>(std::aligned_alloc(64, (terms.scratch_bytes + 127) / 64 * 64)));
    Scratch scratch{memory.get()};
    if constexpr (sizeof(T) == 8) target.terms_d(terms, place, s.data(), place.keys, masked, scratch);
    else target.terms_f(terms, place, s.data(), place.keys, masked, scratch);
    return s;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
void check_place(const Terms& terms, const Place& place, Numbers& numbers) {
    std::vector<T> raw(static_cast<std::size_t>(place.rows * place.keys));
    for (T& x : raw) x = static_cast<T>(3 * numbers.real());
    const auto usable = usable_targets(target_rows(), cpu_features());
    const Verdict verdict = keep_verdict(terms, place.shared, place.row0, place.rows, place.key0, place.keys);
    const T none = -std::numeric_limits<T>::infinity();
    std::vector<T> first;
    for (const TargetRow* row : usable) {
        const std::vector<T> s = run<T>(*row->table, terms, place, raw, true);
        if (verdict == Verdict::none) {
            for (T x : s) DEMAND(x == none);
        }
        if (verdict == Verdict::all) DEMAND(same_bits(s, run<T>(*row->table, terms, place, raw, false)));
        if (terms.changes()) continue;
        // Without a score function what is kept is what came.
        for (std::size_t n = 0; n < s.size(); ++n) DEMAND(s[n] == none || std::memcmp(&s[n], &raw[n], sizeof(T)) == 0);
        if (first.empty()) first = s;
        DEMAND(same_bits(s, first));
    }
    if (terms.changes()) return;
    for (int n = 0; n < 4; ++n) {
        const auto r = static_cast<std::int64_t>(numbers.next() % static_cast<std::uint64_t>(place.rows));
        const auto k = static_cast<std::int64_t>(numbers.next() % static_cast<std::uint64_t>(place.keys));
        const auto at = static_cast<std::size_t>(r * place.keys + k);
        const std::vector<T> one = run<T>(*usable.back()->table, terms, {place.shared, place.row0 + r, 1, place.key0 + k, 1}, {raw[at]}, true);
        DEMAND(std::memcmp(&one[0], &first[at], sizeof(T)) == 0);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input in(data, size);
    Numbers numbers(in.word());
    const std::int64_t s = in.range(1, 3), r1 = in.range(1, 4), r2 = in.range(1, 50), k1 = in.range(1, 3), k2 = in.range(1, 300);
    const auto offset = [&] { return in.one_in(10) ? static_cast<std::int64_t>(in.word() >> 20) : in.range(-20, 40); };
    std::vector<Coordinate> coordinates{{Role::shared, s, 1, offset()}, {Role::row, r1, r2, offset()}, {Role::row, r2, 1, offset()},
                                        {Role::key, k1, k2, offset()}, {Role::key, k2, 1, offset()}};
    std::vector<OwnedTable> tables;
    for (std::int64_t n = in.range(0, 3); n > 0; --n) tables.push_back(make_table(in, numbers));
    Parts parts;
    parts.num_coordinates = static_cast<std::int32_t>(coordinates.size());
    parts.num_tables = static_cast<std::int32_t>(tables.size());
    for (std::int64_t n = in.range(1, 30); n > 0; --n) parts.nodes.push_back(make_node(in, parts, tables));
    if (in.one_in(8)) spoil(in, parts.nodes[static_cast<std::size_t>(in.range(0, static_cast<std::int64_t>(parts.nodes.size()) - 1))]);
    if (!in.one_in(6)) parts.keep = last_of(in, parts, Kind::boolean);
    if (in.one_in(3)) parts.score = last_of(in, parts, Kind::real);
    std::vector<TableParts> given;
    for (const OwnedTable& table : tables) given.push_back(table.parts);
    const bool wide = in.one_in(2);
    try {
        const Graph graph(std::move(parts));
        const std::unique_ptr<BoundTerms> bound = graph.bind(coordinates, given, wide);
        for (int n = 0; n < 3; ++n) {
            const std::int64_t rows = in.range(1, std::min<std::int64_t>(r1 * r2, 40)), keys = in.range(1, std::min<std::int64_t>(k1 * k2, 200));
            const Place place{in.range(0, s - 1), in.range(0, r1 * r2 - rows), rows, in.range(0, k1 * k2 - keys), keys};
            if (wide) check_place<double>(bound->terms, place, numbers);
            else check_place<float>(bound->terms, place, numbers);
        }
    } catch (const GraphError&) {
        // told, and nothing was run
    }
    return 0;
}
