// The reader for bounds: what a graph's values can be over a block of coordinates.
//
// Bounds are sound, not tight: an answer of "not known" costs time, never a wrong number. They hold for graphs that are
// evaluated in float or double, whatever the rounding, and for values that are NaN. Truth values are bounded by 0 and 1.
#pragma once

#include <memory>
#include <vector>

#include "graph.h"

namespace qkv {

struct Interval {
    double low, high;
    bool nan = false;  // the value may also be NaN, which lies between no bounds

    bool has_zero() const { return low <= 0 && high >= 0; }
    bool infinite() const;
};

// Lowest and highest values of a table, whole and in stretches along its longest axis.
class Ranges {
  public:
    // Null where nothing can be learnt: empty or large tables, NaN, whole numbers beyond 2^53.
    static std::shared_ptr<const Ranges> learn(const TableParts& table);

    // Whether some index may leave its axis: what is read there must be looked at pair by pair, to be reported.
    bool leaves(const Interval* indices) const;
    Interval query(const Interval* indices) const;  // one for each axis, inclusive; beyond the table they are clamped

  private:
    struct Level { std::vector<double> low, high; };  // [lines, chunks], each level 16 times coarser

    Interval stretch(int64_t line, int64_t first, int64_t last) const;

    std::vector<int64_t> sizes_;
    int64_t axis_ = 0, lines_ = 1, length_ = 1, chunk_ = 1;
    std::vector<Level> levels_;
    std::vector<int64_t> widths_;  // chunks of each level
    std::shared_ptr<const Ranges> whole_;  // of all lines together, where there are several
};

// How one node of a graph is bounded: the node, its constant or coordinate, what its table holds.
struct BoundNode {
    Op op;
    Kind kind;
    bool rounds;                 // its operands are floats, or mixed
    bool wide_table;             // a table of double, which float may round
    bool plain;                  // one of whole_bound's
    int32_t operands[3];         // places in the list
    int32_t coordinate;
    std::vector<int32_t> indices;
    std::shared_ptr<const Ranges> ranges;
};

// Bounds of a mask over any block.
struct Bounds {
    std::vector<Interval> fixed;     // of nodes that are the same everywhere in the call
    std::vector<BoundNode> nodes;    // of the others; operand n is fixed[n], or node n - fixed.size()
    std::vector<Coordinate> coordinates;
    int32_t root;
    int32_t num_by_row = 0;  // the first of `nodes`, which no key changes
    bool by_shared = false;  // whether a shared coordinate changes any of them
    bool looks_up = false;   // whether any of them reads a table
    uint64_t serial = 0;     // of these bounds alone, in this process
};

// Bounds of one node from its operands'. `kinds` are theirs.
Interval bound_of(const BoundNode& node, const Interval* operands, const Kind* kinds);

// Bounds of an index over a block of flat indices from `first`, `count` of them.
Interval index_bounds(const Coordinate& coordinate, int64_t first, int64_t count);

// Bounds of every node of the graph over the whole call; nodes that no part needs are left unknown.
std::vector<Interval> call_bounds(const Parts& parts, const std::vector<bool>& needed,
                                  const std::vector<Coordinate>& coordinates, const std::vector<TableParts>& tables,
                                  const std::vector<std::shared_ptr<const Ranges>>& ranges);

// The mask's nodes made ready for blocks.
std::unique_ptr<Bounds> block_bounds(const Parts& parts, const std::vector<Coordinate>& coordinates,
                                     const std::vector<TableParts>& tables,
                                     const std::vector<std::shared_ptr<const Ranges>>& ranges);

}  // namespace qkv
