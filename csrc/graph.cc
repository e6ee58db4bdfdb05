// What makes a graph sound, checked once when it is made.
#include "graph.h"

#include <algorithm>
#include <utility>

#include "interval.h"

namespace qkv {
namespace {

struct Row {
    const char* name;
    int arity;
};

constexpr Row kRows[] = {
    {"constant", 0}, {"position", 0}, {"index", 0}, {"size", 0}, {"score", 0}, {"lookup", 0}, {"add", 2}, {"sub", 2},
    {"mul", 2}, {"floordiv", 2}, {"mod", 2}, {"pow", 2}, {"div", 2}, {"lt", 2}, {"le", 2}, {"eq", 2}, {"ne", 2},
    {"gt", 2}, {"ge", 2}, {"and", 2}, {"or", 2}, {"xor", 2}, {"not", 1}, {"min", 2}, {"max", 2}, {"neg", 1},
    {"abs", 1}, {"exp", 1}, {"log", 1}, {"sqrt", 1}, {"tanh", 1}, {"sigmoid", 1}, {"erf", 1}, {"sin", 1}, {"cos", 1},
    {"float", 1}, {"floor", 1}, {"select", 3},
};
static_assert(std::size(kRows) == static_cast<std::size_t>(Op::count));

[[noreturn]] void refuse(int32_t n, const std::string& what) {
    throw GraphError("node " + std::to_string(n) + " of an expression graph " + what);
}

// Whether an operation's values have this kind when its operands have those.
bool fits(const Node& node, const std::vector<Node>& nodes) {
    const auto kind = [&](int n) { return nodes[node.operands[n]].kind; };
    const auto all = [&](Kind wanted) {
        for (int n = 0; n < kRows[static_cast<int>(node.op)].arity; ++n) if (kind(n) != wanted) return false;
        return true;
    };
    Kind largest = Kind::whole;  // arithmetic on truth values gives whole numbers
    for (int n = 0; n < kRows[static_cast<int>(node.op)].arity; ++n) largest = std::max(largest, kind(n));
    switch (node.op) {
        case Op::constant: return true;
        case Op::position: case Op::index: case Op::size: return node.kind == Kind::whole;
        case Op::score: return node.kind == Kind::real;
        case Op::lookup: return true;
        case Op::add: case Op::sub: case Op::mul: case Op::floordiv: case Op::mod: case Op::min: case Op::max:
        case Op::neg: case Op::abs: return node.kind == largest;
        case Op::pow: return node.kind == Kind::real || (node.kind == Kind::whole && largest == Kind::whole);
        case Op::lt: case Op::le: case Op::eq: case Op::ne: case Op::gt: case Op::ge: return node.kind == Kind::boolean;
        case Op::logical_and: case Op::logical_or: case Op::logical_xor: case Op::logical_not:
            return node.kind == Kind::boolean && all(Kind::boolean);
        case Op::floor: return node.kind == Kind::whole;
        case Op::select: return kind(0) == Kind::boolean && node.kind == std::max(kind(1), kind(2));
        default: return node.kind == Kind::real;
    }
}

void check_node(int32_t n, const Parts& parts) {
    const Node& node = parts.nodes[n];
    if (node.op >= Op::count) refuse(n, "has no known operation");
    if (node.kind >= Kind::count) refuse(n, "has no known kind");
    const Row& row = kRows[static_cast<int>(node.op)];
    for (int m = 0; m < 3; ++m) {
        const int32_t at = node.operands[m];
        if (m < row.arity ? at < 0 || at >= n : at != -1) {
            refuse(n, std::string("(") + row.name + ") has operand " + std::to_string(at) + ", which does not stand before it");
        }
    }
    if (node.op == Op::lookup) {
        if (node.which < 0 || node.which >= parts.num_tables) refuse(n, "reads table " + std::to_string(node.which) + ", which is not there");
        if (node.indices.size() > static_cast<std::size_t>(kTableAxes)) refuse(n, "has more indices than a table has axes");
        for (int32_t at : node.indices) {
            if (at < 0 || at >= n) refuse(n, "has index " + std::to_string(at) + ", which does not stand before it");
            if (parts.nodes[at].kind == Kind::real) refuse(n, "is indexed by a float");
        }
    } else if (!node.indices.empty()) {
        refuse(n, "has indices and is no lookup");
    }
    const bool leaf = node.op == Op::position || node.op == Op::index || node.op == Op::size;
    if (leaf && (node.which < 0 || node.which >= parts.num_coordinates)) {
        refuse(n, "reads coordinate " + std::to_string(node.which) + ", which is not there");
    }
    if (!fits(node, parts.nodes)) refuse(n, std::string("(") + row.name + ") does not have the kind that its operands give it");
}

void check_part(const Parts& parts, int32_t node, const char* name, Kind kind, bool optional) {
    if (optional && node == -1) return;
    if (node < 0 || node >= static_cast<int32_t>(parts.nodes.size())) {
        throw GraphError(std::string("the part \"") + name + "\" of an expression graph is node " + std::to_string(node) + ", which is not there");
    }
    if (parts.nodes[node].kind != kind) throw GraphError(std::string("the part \"") + name + "\" of an expression graph has another kind");
}

// Which nodes the score so far reaches.
std::vector<bool> scored(const std::vector<Node>& nodes) {
    std::vector<bool> out(nodes.size());
    for (std::size_t n = 0; n < nodes.size(); ++n) {
        bool reached = nodes[n].op == Op::score;
        for (int32_t at : nodes[n].operands) reached = reached || (at >= 0 && out[at]);
        for (int32_t at : nodes[n].indices) reached = reached || out[at];
        out[n] = reached;
    }
    return out;
}

}  // namespace

Graph::Graph(Parts parts) : parts_(std::move(parts)) {
    if (parts_.nodes.size() > static_cast<std::size_t>(kGraphNodes)) {
        throw GraphError("an expression graph has " + std::to_string(parts_.nodes.size()) + " nodes");
    }
    if (parts_.num_coordinates < 0 || parts_.num_tables < 0) throw GraphError("an expression graph has a negative number of coordinates or tables");
    for (int32_t n = 0; n < static_cast<int32_t>(parts_.nodes.size()); ++n) check_node(n, parts_);
    check_part(parts_, parts_.keep, "keep", Kind::boolean, true);
    check_part(parts_, parts_.score, "score", Kind::real, true);
    check_part(parts_, parts_.by_score, "derivative", Kind::real, true);
    check_part(parts_, parts_.row, "row", Kind::whole, true);
    const std::vector<bool> reached = scored(parts_.nodes);
    for (int32_t part : {parts_.keep, parts_.row}) {
        if (part >= 0 && reached[part]) throw GraphError("a mask or a row of a table depends on the score");
    }
    const auto guards = [&](const std::vector<Parts::Guard>& list) {
        for (const Parts::Guard& guard : list) {
            check_part(parts_, guard.beyond, "guard", Kind::boolean, false);
            if (guard.lookup < 0 || guard.lookup >= static_cast<int32_t>(parts_.nodes.size()) ||
                parts_.nodes[guard.lookup].op != Op::lookup) {
                throw GraphError("a guard of an expression graph is of node " + std::to_string(guard.lookup) + ", which is no lookup");
            }
        }
    };
    guards(parts_.keep_guards), guards(parts_.score_guards), guards(parts_.row_guards);
    for (const Parts::Guard& guard : parts_.keep_guards) {
        if (reached[guard.beyond]) throw GraphError("a mask depends on the score");
    }
    for (const Parts::Guard& guard : parts_.row_guards) {
        if (reached[guard.beyond]) throw GraphError("a row of a table depends on the score");
    }
    for (const Parts::Gradient& gradient : parts_.gradients) {
        check_part(parts_, gradient.value, "gradient", Kind::real, false);
        check_part(parts_, gradient.lookup, "lookup", Kind::real, false);
        if (parts_.nodes[gradient.lookup].op != Op::lookup) {
            throw GraphError("a gradient of an expression graph is of node " + std::to_string(gradient.lookup) + ", which is no lookup");
        }
    }
}

BoundTerms::BoundTerms() = default;
BoundTerms::~BoundTerms() = default;

}  // namespace qkv
