// Graphs that are refused, programs beside arithmetic by hand, verdicts beside pairs, and graphs made at random: each
// target's programs against values computed node by node.
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "graph.h"
#include "targets.h"

using qkv::Coordinate;
using qkv::Elements;
using qkv::Graph;
using qkv::Kind;
using qkv::Node;
using qkv::Op;
using qkv::Parts;
using qkv::Place;
using qkv::Role;
using qkv::TableParts;
using qkv::Verdict;

namespace {

Node leaf(Op op, Kind kind, int32_t which = -1) {
    Node node{};
    node.op = op, node.kind = kind, node.which = which;
    return node;
}

Node whole(int64_t value) {
    Node node = leaf(Op::constant, Kind::whole);
    node.whole = value;
    return node;
}

Node apply(Op op, Kind kind, int32_t a, int32_t b = -1, int32_t c = -1) {
    Node node = leaf(op, kind);
    node.operands[0] = a, node.operands[1] = b, node.operands[2] = c;
    return node;
}

Node look_up(Kind kind, int32_t table, std::vector<int32_t> indices) {
    Node node = leaf(Op::lookup, kind, table);
    node.indices = std::move(indices);
    return node;
}

// i (rows) is coordinate 0, j (keys) coordinate 1, h (shared) coordinate 2.
std::vector<Coordinate> places(int64_t rows, int64_t keys, int64_t offset = 0) {
    return {{Role::row, rows, 1, offset}, {Role::key, keys, 1, 0}, {Role::shared, 2, 1, 0}};
}

// j <= i, and i - j < width where width > 0.
Parts causal(int64_t width = 0) {
    Parts parts;
    parts.num_coordinates = 3;
    parts.nodes = {leaf(Op::position, Kind::whole, 0), leaf(Op::position, Kind::whole, 1), apply(Op::le, Kind::boolean, 1, 0)};
    parts.keep = 2;
    if (width) {
        parts.nodes.push_back(apply(Op::sub, Kind::whole, 0, 1));
        parts.nodes.push_back(whole(width));
        parts.nodes.push_back(apply(Op::lt, Kind::boolean, 3, 4));
        parts.nodes.push_back(apply(Op::logical_and, Kind::boolean, 2, 5));
        parts.keep = 6;
    }
    return parts;
}

template <class F> bool refuses(F make) {
    try {
        make();
        return false;
    } catch (const qkv::GraphError& error) {
        return std::string(error.what()).size() > 10;
    }
}

struct Memory {
    explicit Memory(const qkv::Terms& terms)
        : block(static_cast<char*>(std::aligned_alloc(64, (terms.scratch_bytes + 127) / 64 * 64)), &std::free), scratch{block.get()} {}
    std::unique_ptr<char, void (*)(void*)> block;
    qkv::Scratch scratch;
};

void every_target(const std::function<void(const qkv::Target&)>& body) {
    for (const qkv::TargetRow* row : qkv::usable_targets(qkv::target_rows(), qkv::cpu_features())) body(*row->table);
}

void what_is_no_graph_is_refused() {
    const auto with = [](const std::function<void(Parts&)>& change) {
        return refuses([&] {
            Parts parts = causal(4);
            change(parts);
            Graph graph(std::move(parts));
        });
    };
    CHECK(!with([](Parts&) {}));
    CHECK(with([](Parts& p) { p.nodes[2].operands[0] = 2; }));    // itself
    CHECK(with([](Parts& p) { p.nodes[2].operands[1] = 99; }));
    CHECK(with([](Parts& p) { p.nodes[2].operands[1] = -1; }));   // too few
    CHECK(with([](Parts& p) { p.nodes[2].operands[2] = 0; }));    // too many
    CHECK(with([](Parts& p) { p.nodes[0].which = 3; }));
    CHECK(with([](Parts& p) { p.nodes[0].which = -1; }));
    CHECK(with([](Parts& p) { p.nodes[2].kind = Kind::whole; }));
    CHECK(with([](Parts& p) { p.nodes[2].kind = Kind::count; }));
    CHECK(with([](Parts& p) { p.nodes[2].op = Op::count; }));
    CHECK(with([](Parts& p) { p.nodes[6].operands[0] = 3; }));    // a whole number as a truth value
    CHECK(with([](Parts& p) { p.keep = 3; }));
    CHECK(with([](Parts& p) { p.keep = 7; }));
    CHECK(with([](Parts& p) { p.score = 0; }));
    CHECK(with([](Parts& p) { p.num_coordinates = -1; }));
    CHECK(with([](Parts& p) { p.nodes.push_back(look_up(Kind::real, 0, {0})); }));  // there is no table
    CHECK(with([](Parts& p) { p.num_tables = 1, p.nodes.push_back(look_up(Kind::real, 0, {7})); }));
    CHECK(with([](Parts& p) { p.score_guards.push_back({0, 2}); }));
    CHECK(with([](Parts& p) { p.gradients.push_back({0, 0}); }));
    CHECK(with([](Parts& p) {
        p.nodes.push_back(leaf(Op::score, Kind::real));
        p.nodes.push_back(apply(Op::lt, Kind::boolean, 7, 7));
        p.keep = 8;  // a mask that depends on the score
    }));
}

void what_does_not_fit_its_graph_is_refused() {
    Parts parts = causal();
    parts.num_tables = 1;
    parts.nodes.push_back(look_up(Kind::real, 0, {0, 1}));
    parts.score = 3;
    const Graph graph(std::move(parts));
    const float numbers[6] = {};
    const auto with = [&](std::vector<Coordinate> coordinates, TableParts table) {
        return refuses([&] { graph.bind(std::move(coordinates), {std::move(table)}, false); });
    };
    const TableParts right{{numbers, Elements::f32, 0}, {2, 3}, {3, 1}, false};
    CHECK(!with(places(2, 3), right));
    CHECK(with({}, right));
    CHECK(with({{Role::row, 0, 1, 0}, {Role::key, 3, 1, 0}, {Role::shared, 2, 1, 0}}, right));
    CHECK(with({{Role::row, 2, 0, 0}, {Role::key, 3, 1, 0}, {Role::shared, 2, 1, 0}}, right));
    CHECK(with({{static_cast<Role>(7), 2, 1, 0}, {Role::key, 3, 1, 0}, {Role::shared, 2, 1, 0}}, right));
    CHECK(with(places(int64_t{1} << 60, 3), right));
    TableParts wrong = right;
    wrong.sizes = {2};
    CHECK(with(places(2, 3), wrong));
    wrong.strides = {1};
    CHECK(with(places(2, 3), wrong));  // one index for each axis
    wrong = right, wrong.table.elements = Elements::i32;
    CHECK(with(places(2, 3), wrong));
    wrong = right, wrong.table.elements = static_cast<Elements>(200);
    CHECK(with(places(2, 3), wrong));
    wrong = right, wrong.table.data = nullptr;
    CHECK(with(places(2, 3), wrong));
    wrong = right, wrong.sizes = {-1, 3};
    CHECK(with(places(2, 3), wrong));
}

int64_t down(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a % b < 0) != (b < 0)); }

// Masks of whole numbers alone: where i - j, divided or its remainder taken, compares with a number.
void verdicts_of_whole_numbers_hold() {
    const int64_t size = 24;
    const auto holds = [](Op op, int64_t a, int64_t b) {
        switch (op) {
            case Op::lt: return a < b;
            case Op::le: return a <= b;
            case Op::gt: return a > b;
            case Op::ge: return a >= b;
            case Op::eq: return a == b;
            default: return a != b;
        }
    };
    for (const Op part : {Op::floordiv, Op::mod, Op::add}) {
        for (const int64_t by : {1, 4, 7, 60, -5}) {
            for (const Op op : {Op::lt, Op::le, Op::gt, Op::ge, Op::eq, Op::ne}) {
                for (const int64_t beside : {-2, 0, 1, 3}) {
                    Parts parts;
                    parts.num_coordinates = 3;
                    parts.nodes = {leaf(Op::position, Kind::whole, 0), leaf(Op::position, Kind::whole, 1), apply(Op::sub, Kind::whole, 0, 1),
                                   whole(by), apply(part, Kind::whole, 2, 3), whole(beside), apply(op, Kind::boolean, 4, 5)};
                    parts.keep = 6;
                    const auto bound = Graph(parts).bind(places(size, size), {}, false);
                    const auto kept = [&](int64_t i, int64_t j) {
                        const int64_t a = i - j;
                        return holds(op, part == Op::add ? a + by : part == Op::mod ? a - by * down(a, by) : down(a, by), beside);
                    };
                    bool right = true;
                    for (int64_t row = 0; row < size; row += 5) {
                        for (int64_t key = 0; key < size; key += 3) {
                            for (const int64_t rows : {1, 3, 11}) {
                                for (const int64_t keys : {1, 4, 16}) {
                                    if (row + rows > size || key + keys > size) continue;
                                    bool any = false, all = true;
                                    for (int64_t i = row; i < row + rows; ++i)
                                        for (int64_t j = key; j < key + keys; ++j) any |= kept(i, j), all &= kept(i, j);
                                    const Verdict found = qkv::keep_verdict(bound->terms, 0, row, rows, key, keys);
                                    right &= found == Verdict::some || (found == Verdict::all ? all : !any);
                                    if (rows == 1 && keys == 1 && by > 0) right &= found != Verdict::some;
                                }
                            }
                        }
                    }
                    CHECK(right);
                }
            }
        }
    }
}

void masks_drop_what_they_say() {
    const int64_t rows = 70, keys = 600, offset = 30, width = 9;
    const auto bound = Graph(causal(width)).bind(places(rows, keys, offset), {}, false);
    every_target([&](const qkv::Target& target) {
        Memory memory(bound->terms);
        std::vector<float> s(rows * keys, std::nanf(""));
        for (int64_t n = 0; n < rows * keys; ++n) if (n % keys <= n / keys + offset && n / keys + offset - n % keys < width) s[n] = 1;
        target.terms_f(bound->terms, Place{1, 0, rows, 0, keys}, s.data(), keys, true, memory.scratch);
        bool right = true;
        for (int64_t n = 0; n < rows * keys; ++n) {
            const int64_t i = n / keys + offset, j = n % keys;
            right &= s[n] == (j <= i && i - j < width ? 1.0f : -std::numeric_limits<float>::infinity());
        }
        CHECK(right);
        CHECK(memory.scratch.outside == -1);
    });
}

void verdicts_are_those_of_all_pairs() {
    const int64_t size = 40, width = 6;
    const auto bound = Graph(causal(width)).bind(places(size, size), {}, false);
    const auto plain = Graph(causal()).bind(places(size, size), {}, false);
    for (int64_t row = 0; row < size; row += 3) {
        for (int64_t rows = 1; row + rows <= size; rows += 5) {
            for (int64_t key = 0; key < size; key += 3) {
                for (int64_t keys = 1; key + keys <= size; keys += 5) {
                    int64_t kept = 0, below = 0;
                    for (int64_t i = row; i < row + rows; ++i) {
                        for (int64_t j = key; j < key + keys; ++j) below += j <= i, kept += j <= i && i - j < width;
                    }
                    const auto exact = [&](int64_t n) { return n == 0 ? Verdict::none : n == rows * keys ? Verdict::all : Verdict::some; };
                    CHECK(qkv::keep_verdict(plain->terms, 0, row, rows, key, keys) == exact(below));
                    const Verdict found = qkv::keep_verdict(bound->terms, 0, row, rows, key, keys);
                    CHECK(found == Verdict::some || found == exact(kept));
                }
            }
        }
    }
    CHECK(qkv::keep_verdict(plain->terms, 0, 0, 0, 0, 5) == Verdict::none);
}

// score + table[i, j] with the table's own strides, and its gradient.
void tables_are_read_in_place_and_get_gradients() {
    const int64_t rows = 37, keys = 53;
    std::vector<double> table(rows * keys * 2);
    for (std::size_t n = 0; n < table.size(); ++n) table[n] = static_cast<double>(n) * 0.25;
    Parts parts = causal();
    parts.num_tables = 1;
    parts.nodes.push_back(leaf(Op::index, Kind::whole, 0));
    parts.nodes.push_back(leaf(Op::index, Kind::whole, 1));
    parts.nodes.push_back(look_up(Kind::real, 0, {3, 4}));
    parts.nodes.push_back(leaf(Op::score, Kind::real));
    parts.nodes.push_back(apply(Op::add, Kind::real, 6, 5));
    Node one = leaf(Op::constant, Kind::real);
    one.real = 1;
    parts.nodes.push_back(one);
    parts.score = 7, parts.by_score = 8, parts.gradients = {{5, 8}};
    const auto bound = Graph(std::move(parts)).bind(places(rows, keys), {{{table.data(), Elements::f64, 0}, {rows, keys}, {2, 2 * rows}, false}}, true);
    CHECK(bound->tables[0].count == rows * keys);
    every_target([&](const qkv::Target& target) {
        Memory memory(bound->terms);
        std::vector<double> s(rows * keys, 0.5), ds(rows * keys), gradient(rows * keys);
        for (std::size_t n = 0; n < ds.size(); ++n) ds[n] = static_cast<double>(n);
        target.terms_d(bound->terms, Place{0, 0, rows, 0, keys}, s.data(), keys, true, memory.scratch);
        double* gradients[] = {gradient.data()};
        target.terms_backward_d(bound->terms, Place{0, 0, rows, 0, keys}, s.data(), keys, ds.data(), keys, true, gradients, memory.scratch);
        bool right = true;
        for (int64_t n = 0; n < rows * keys; ++n) {
            const int64_t i = n / keys, j = n % keys;
            right &= s[n] == (j <= i ? 0.5 + table[2 * i + 2 * rows * j] : -std::numeric_limits<double>::infinity());
            right &= gradient[n] == (j <= i ? static_cast<double>(n) : 0.0) && ds[n] == gradient[n];
        }
        CHECK(right);
    });
}

void a_lookup_outside_its_table_is_told() {
    std::vector<float> table(10, 2.0f);
    Parts parts = causal();
    parts.num_tables = 1;
    parts.nodes.push_back(apply(Op::sub, Kind::whole, 0, 1));
    parts.nodes.push_back(look_up(Kind::real, 0, {3}));
    parts.nodes.push_back(whole(10));
    parts.nodes.push_back(apply(Op::ge, Kind::boolean, 3, 5));
    parts.score = 4, parts.score_guards = {{4, 6}};
    const auto bound = Graph(std::move(parts)).bind(places(20, 20), {{{table.data(), Elements::f32, 0}, {10}, {1}, false}}, false);
    every_target([&](const qkv::Target& target) {
        Memory memory(bound->terms);
        std::vector<float> s(20 * 20);
        target.terms_f(bound->terms, Place{0, 0, 10, 0, 20}, s.data(), 20, true, memory.scratch);
        CHECK(memory.scratch.outside == -1);  // keys after the query are dropped, and clamped
        target.terms_f(bound->terms, Place{0, 10, 10, 0, 20}, s.data(), 20, true, memory.scratch);
        CHECK(memory.scratch.outside == 4);
    });
}

// ---- graphs made at random, one pair at a time against the programs

struct Number {
    int64_t whole;
    double real;
};

struct Random {
    Parts parts;
    std::vector<int64_t> table;

    int32_t any(std::mt19937_64& draw, Kind kind) {
        std::vector<int32_t> of;
        for (std::size_t n = 0; n < parts.nodes.size(); ++n) if (parts.nodes[n].kind == kind) of.push_back(static_cast<int32_t>(n));
        return of[draw() % of.size()];
    }

    explicit Random(std::mt19937_64& draw) {
        parts.num_coordinates = 3, parts.num_tables = 1;
        for (int n = 0; n < 23; ++n) table.push_back(static_cast<int64_t>(draw() % 19) - 9);
        for (int32_t n = 0; n < 3; ++n) parts.nodes.push_back(leaf(n % 2 ? Op::position : Op::index, Kind::whole, n));
        parts.nodes.push_back(leaf(Op::position, Kind::whole, 0));
        parts.nodes.push_back(leaf(Op::size, Kind::whole, 1));
        for (int n = 0; n < 3; ++n) parts.nodes.push_back(whole(static_cast<int64_t>(draw() % 41) - 20));
        parts.nodes.push_back(leaf(Op::score, Kind::real));
        parts.nodes.push_back(apply(Op::lt, Kind::boolean, 1, 3));
        constexpr Op wholes[] = {Op::add, Op::sub, Op::mul, Op::floordiv, Op::mod, Op::min, Op::max};
        constexpr Op compared[] = {Op::lt, Op::le, Op::eq, Op::ne, Op::gt, Op::ge};
        constexpr Op logical[] = {Op::logical_and, Op::logical_or, Op::logical_xor};
        const int count = 1 + static_cast<int>(draw() % 24);
        for (int n = 0; n < count; ++n) {
            const int32_t a = any(draw, Kind::whole), b = any(draw, Kind::whole);
            switch (draw() % 8) {
                case 0: case 1: parts.nodes.push_back(apply(wholes[draw() % 7], Kind::whole, a, b)); break;
                case 2: parts.nodes.push_back(apply(draw() % 2 ? Op::neg : Op::abs, Kind::whole, a)); break;
                case 3: parts.nodes.push_back(apply(compared[draw() % 6], Kind::boolean, a, b)); break;
                case 4: parts.nodes.push_back(apply(logical[draw() % 3], Kind::boolean, any(draw, Kind::boolean), any(draw, Kind::boolean))); break;
                case 5: parts.nodes.push_back(apply(Op::select, Kind::whole, any(draw, Kind::boolean), a, b)); break;
                case 6: parts.nodes.push_back(look_up(Kind::whole, 0, {a})); break;
                default: parts.nodes.push_back(apply(draw() % 2 ? Op::add : Op::max, Kind::real, any(draw, Kind::real), a));
            }
        }
        parts.score = any(draw, Kind::real);
        for (int32_t n = static_cast<int32_t>(parts.nodes.size()) - 1; n >= 0; --n) {
            if (parts.nodes[n].kind == Kind::boolean) { parts.keep = n; break; }
        }
    }

    // The value of every node at one pair, in whole numbers that wrap and in double.
    std::vector<Number> at(const std::vector<Coordinate>& coordinates, int64_t shared, int64_t row, int64_t key, double score) const {
        std::vector<Number> out;
        const int64_t flat[] = {shared, row, key};
        for (const Node& node : parts.nodes) {
            const Number a = node.operands[0] >= 0 ? out[node.operands[0]] : Number{};
            const Number b = node.operands[1] >= 0 ? out[node.operands[1]] : Number{};
            const Number c = node.operands[2] >= 0 ? out[node.operands[2]] : Number{};
            const auto u = [](int64_t x) { return static_cast<uint64_t>(x); };
            int64_t x = 0;
            double y = 0;
            switch (node.op) {
                case Op::constant: x = node.whole; break;
                case Op::index: case Op::position: case Op::size: {
                    const Coordinate& k = coordinates[node.which];
                    x = flat[static_cast<int>(k.role)] / k.divisor % k.size + (node.op == Op::position ? k.offset : 0);
                    if (node.op == Op::size) x = k.size;
                    break;
                }
                case Op::score: y = score; break;
                case Op::lookup: x = table[std::min<int64_t>(std::max<int64_t>(out[node.indices[0]].whole, 0), 22)]; break;
                case Op::add: x = static_cast<int64_t>(u(a.whole) + u(b.whole)), y = a.real + b.real; break;
                case Op::sub: x = static_cast<int64_t>(u(a.whole) - u(b.whole)); break;
                case Op::mul: x = static_cast<int64_t>(u(a.whole) * u(b.whole)); break;
                case Op::floordiv: case Op::mod: {
                    int64_t down = 0;
                    if (b.whole == -1) down = static_cast<int64_t>(0 - u(a.whole));
                    else if (b.whole != 0) down = a.whole / b.whole - (a.whole % b.whole != 0 && (a.whole < 0) != (b.whole < 0));
                    x = node.op == Op::floordiv ? down : static_cast<int64_t>(u(a.whole) - u(down) * u(b.whole));
                    break;
                }
                case Op::min: x = std::min(a.whole, b.whole); break;
                case Op::max: x = std::max(a.whole, b.whole), y = std::max(a.real, b.real); break;
                case Op::neg: x = static_cast<int64_t>(0 - u(a.whole)); break;
                case Op::abs: x = a.whole < 0 ? static_cast<int64_t>(0 - u(a.whole)) : a.whole; break;
                case Op::lt: x = a.whole < b.whole; break;
                case Op::le: x = a.whole <= b.whole; break;
                case Op::eq: x = a.whole == b.whole; break;
                case Op::ne: x = a.whole != b.whole; break;
                case Op::gt: x = a.whole > b.whole; break;
                case Op::ge: x = a.whole >= b.whole; break;
                case Op::logical_and: x = a.whole & b.whole; break;
                case Op::logical_or: x = a.whole | b.whole; break;
                case Op::logical_xor: x = a.whole ^ b.whole; break;
                case Op::select: x = a.whole ? b.whole : c.whole; break;
                default: break;
            }
            if (node.kind != Kind::real) y = static_cast<double>(x);
            out.push_back({x, y});
        }
        return out;
    }
};

void random_graphs(uint64_t seed, int count) {
    std::mt19937_64 draw(seed);
    for (int n = 0; n < count; ++n) {
        const Random made(draw);
        const int64_t key_size = 1 + static_cast<int64_t>(draw() % 60), row_size = 1 + static_cast<int64_t>(draw() % 50);
        const int64_t groups = 1 + static_cast<int64_t>(draw() % 3), lines = 1 + static_cast<int64_t>(draw() % 3);
        const int64_t far = draw() % 4 ? 0 : int64_t{1} << (20 + draw() % 26);
        const std::vector<Coordinate> coordinates = {
            {Role::row, row_size, groups, static_cast<int64_t>(draw() % 30) - 15 + far}, {Role::key, key_size, 1, far}, {Role::shared, 2, 1, 0}};
        const TableParts table{{made.table.data(), Elements::i64, 0}, {23}, {1}, draw() % 2 == 0};
        const auto bound = Graph(made.parts).bind(coordinates, {table}, true);
        const int64_t rows = row_size * groups, keys = key_size * lines;
        const int64_t row0 = static_cast<int64_t>(draw() % static_cast<uint64_t>(rows)), key0 = static_cast<int64_t>(draw() % static_cast<uint64_t>(keys));
        const Place place{static_cast<int64_t>(draw() % 2), row0, rows - row0, key0, keys - key0};
        std::vector<double> wanted;
        bool any = false, all = true;
        for (int64_t r = row0; r < rows; ++r) {
            for (int64_t k = key0; k < keys; ++k) {
                const auto values = made.at(coordinates, place.shared, r, k, static_cast<double>(r - k) * 0.5);
                const bool kept = values[made.parts.keep].whole != 0;
                any |= kept, all &= kept;
                wanted.push_back(kept ? values[made.parts.score].real : -std::numeric_limits<double>::infinity());
            }
        }
        const Verdict verdict = qkv::keep_verdict(bound->terms, place.shared, row0, place.rows, key0, place.keys);
        const bool sound = verdict == Verdict::some || (verdict == Verdict::none ? !any : all);
        CHECK(sound);
        every_target([&](const qkv::Target& target) {
            Memory memory(bound->terms);
            std::vector<double> s;
            for (int64_t r = row0; r < rows; ++r) for (int64_t k = key0; k < keys; ++k) s.push_back(static_cast<double>(r - k) * 0.5);
            target.terms_d(bound->terms, place, s.data(), place.keys, true, memory.scratch);
            const bool equal = s == wanted;
            CHECK(equal);
            if (!equal) std::printf("  seed %llu, graph %d, target %s\n", static_cast<unsigned long long>(seed), n, target.name);
        });
    }
}

// Nodes of random bytes: each is refused or runs.
void bytes_as_graphs(uint64_t seed, int count) {
    std::mt19937_64 draw(seed);
    int made = 0;
    for (int n = 0; n < count; ++n) {
        Parts parts;
        parts.num_coordinates = 3, parts.num_tables = 1;
        const int size = 1 + static_cast<int>(draw() % 6);
        for (int m = 0; m < size; ++m) {
            Node node{};
            node.op = static_cast<Op>(draw() % (static_cast<int>(Op::count) + 1)), node.kind = static_cast<Kind>(draw() % 4);
            for (int32_t& at : node.operands) at = static_cast<int32_t>(draw() % static_cast<uint64_t>(m + 2)) - 1;
            node.which = static_cast<int32_t>(draw() % 5) - 1;
            node.whole = static_cast<int64_t>(draw()), node.real = static_cast<double>(node.whole);
            if (node.op == Op::lookup) {
                node.operands[0] = node.operands[1] = node.operands[2] = -1;
                node.indices = {static_cast<int32_t>(draw() % static_cast<uint64_t>(m + 2)) - 1};
            }
            parts.nodes.push_back(node);
        }
        parts.keep = static_cast<int32_t>(draw() % 4) - 1, parts.score = static_cast<int32_t>(draw() % 7) - 1;
        std::unique_ptr<qkv::BoundTerms> bound;
        const std::vector<float> table(7, 1.5f);
        try {
            bound = Graph(std::move(parts)).bind(places(5, 40), {{{table.data(), Elements::f32, 0}, {7}, {1}, true}}, false);
        } catch (const qkv::GraphError&) {
            continue;
        }
        ++made;
        every_target([&](const qkv::Target& target) {
            Memory memory(bound->terms);
            std::vector<float> s(5 * 40, 0.5f);
            target.terms_f(bound->terms, Place{1, 0, 5, 0, 40}, s.data(), 40, true, memory.scratch);
        });
        qkv::keep_verdict(bound->terms, 0, 0, 5, 0, 40);
    }
    CHECK(made > 0);
}

}  // namespace

int main(int argc, char** argv) {
    const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
    const int count = argc > 2 ? std::atoi(argv[2]) : 300;
    what_is_no_graph_is_refused();
    what_does_not_fit_its_graph_is_refused();
    masks_drop_what_they_say();
    verdicts_are_those_of_all_pairs();
    verdicts_of_whole_numbers_hold();
    tables_are_read_in_place_and_get_gradients();
    a_lookup_outside_its_table_is_told();
    random_graphs(seed, count);
    bytes_as_graphs(seed, 40 * count);
    return qkv::test::report("terms_test");
}
