// Expression graphs as data, and how a call makes programs of them.
//
// A graph arrives in parts that nobody has checked; a Graph that exists is sound: operands stand before what uses
// them, kinds fit operations, numbers of coordinates and tables are in range. Refuses to evaluate anything.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "terms.h"

namespace qkv {

// What was given is not a graph, or does not fit its call. A fault of the caller's code, never of a user.
class GraphError : public std::logic_error {
  public:
    using std::logic_error::logic_error;
};

enum class Op : uint8_t {
    constant, position, index, size, score, lookup,
    add, sub, mul, floordiv, mod, pow, div, lt, le, eq, ne, gt, ge, logical_and, logical_or, logical_xor, logical_not,
    min, max, neg, abs, exp, log, sqrt, tanh, sigmoid, erf, sin, cos, to_float, floor, select, count
};

enum class Kind : uint8_t { boolean, whole, real, count };

struct Node {
    Op op;
    Kind kind;
    int32_t operands[3] = {-1, -1, -1};
    int32_t which = -1;       // the coordinate or the table
    std::vector<int32_t> indices;  // of a lookup
    int64_t whole = 0;        // a constant's value, as its kind has it
    double real = 0;
};

// The parts of a graph. Numbers are nodes; -1 where there is no such part.
struct Parts {
    struct Gradient { int32_t lookup, value; };  // d(score after)/d(what the lookup reads)
    struct Guard { int32_t lookup, beyond; };    // where the lookup is read outside its table

    std::vector<Node> nodes;
    int32_t num_coordinates = 0, num_tables = 0;
    int32_t keep = -1, score = -1, by_score = -1, row = -1;
    std::vector<Gradient> gradients;
    std::vector<Guard> keep_guards, score_guards, row_guards;
};

constexpr int32_t kGraphNodes = 1 << 18;  // several graphs of limits.EXPRESSION_NODES, their derivatives and guards
constexpr int32_t kTableAxes = 64;

struct TableParts {
    Table table;
    std::vector<int64_t> sizes, strides;  // in elements
    bool learn;  // whether bounds of its values may be learnt by reading them once
};

struct Bounds;

// Terms bound to one call, and everything that they point to.
class BoundTerms {
  public:
    BoundTerms();
    ~BoundTerms();
    BoundTerms(const BoundTerms&) = delete;
    BoundTerms& operator=(const BoundTerms&) = delete;

    Terms terms{};
    std::vector<Coordinate> coordinates;
    std::vector<Table> tables;
    std::vector<std::unique_ptr<std::vector<Instruction>>> instructions;
    std::vector<std::unique_ptr<std::vector<Check>>> checks;
    std::vector<std::unique_ptr<std::vector<Scatter>>> scatters;
    std::vector<std::unique_ptr<std::vector<uint64_t>>> constants;
    std::unique_ptr<Bounds> bounds;
};

class Graph {
  public:
    explicit Graph(Parts parts);  // raises GraphError

    // Programs for these coordinates and tables. Raises GraphError where they do not fit the graph.
    std::unique_ptr<BoundTerms> bind(std::vector<Coordinate> coordinates, std::vector<TableParts> tables,
                                     bool wide) const;

    const Parts& parts() const { return parts_; }

  private:
    Parts parts_;
};

}  // namespace qkv
