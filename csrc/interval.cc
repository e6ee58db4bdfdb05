#include "interval.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "elements.h"

namespace qkv {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kStep = 0x1p-22;      // four roundings of float, relative
constexpr double kSmallest = 1e-37;    // below it float may flush to zero
constexpr double kLargest = 3e38;      // beyond it float may overflow
constexpr double kExact = 0x1p53;      // whole numbers beyond may be rounded here, and overflow in int64
constexpr Interval kUnknown{-kInfinity, kInfinity, true};
constexpr int64_t kLearnt = 1 << 22;   // elements of a table that is read for its bounds, at most
constexpr int64_t kRadix = 16;         // neighbours that the next level takes together
constexpr int64_t kSmallTable = 4096;  // elements up to which every one is kept by itself
constexpr int64_t kFewLines = 64;      // lines that are asked one by one

bool known(double x) { return std::isfinite(x); }

// Wider by what float may round away, overflow and underflow included.
Interval rounded(const Interval& x) {
    double low = known(x.low) ? x.low - std::abs(x.low) * kStep - kSmallest : x.low;
    double high = known(x.high) ? x.high + std::abs(x.high) * kStep + kSmallest : x.high;
    if (low < -kLargest) low = -kInfinity;
    if (high > kLargest) high = kInfinity;
    return {low, high, x.nan};
}

bool large(const Interval& x) { return std::max(std::abs(x.low), std::abs(x.high)) > 0x1p24; }

Interval decided(bool always, bool never) { return {always ? 1.0 : 0.0, never ? 0.0 : 1.0}; }

Interval extremes(const double* values, bool nan) {
    Interval out{values[0], values[0], nan};
    bool lost = std::isnan(values[0]);
    for (int n = 1; n < 4; ++n) {
        lost |= std::isnan(values[n]);
        out.low = std::min(out.low, values[n]);
        out.high = std::max(out.high, values[n]);
    }
    if (lost) out.low = out.high = std::numeric_limits<double>::quiet_NaN();
    return out;
}

double product(double x, double y) { return x == 0 || y == 0 ? 0.0 : x * y; }

Interval select(const Interval& test, const Interval& a, const Interval& b) {
    if (test.low == 1) return a;
    if (test.high == 0) return b;
    return {std::min(a.low, b.low), std::max(a.high, b.high), a.nan || b.nan};
}

// Remainders by positive numbers; by one number, exact while the block stays within one period.
Interval modulo(const Interval& a, const Interval& b, bool whole) {
    if (!(b.low > 0)) return kUnknown;
    const bool one_divisor = b.low == b.high;
    const double divisor = one_divisor ? b.low : 1.0;
    const double first = std::floor(a.low / divisor), last = std::floor(a.high / divisor);
    const bool one_period = one_divisor && first == last && !a.infinite();
    const bool nan = a.nan || b.nan || a.infinite();
    if (one_period) return {a.low - divisor * first, a.high - divisor * first, nan};
    return {0.0, whole ? b.high - 1 : b.high, nan};
}

// Room for the libraries' own rounding; absolute, too, as a logarithm near 1 is small and its error is not.
double beside(double bound, double direction) {
    return known(bound) ? bound + direction * (1e-5 * std::abs(bound) + 1e-6) : bound;
}

Interval increasing(Op op, const Interval& a) {
    const auto at = [op](double x) {
        switch (op) {
            case Op::exp: return std::exp(x);
            case Op::sqrt: return std::sqrt(x);
            case Op::tanh: return std::tanh(x);
            case Op::log: return std::log(x);
            default: return 1.0 / (1.0 + std::exp(-x));
        }
    };
    const bool nan = a.nan || ((op == Op::log || op == Op::sqrt) && a.low < 0);
    return {beside(at(a.low), -1.0), beside(at(a.high), 1.0), nan};
}

Interval truth(Op op, const Interval& a, const Interval& b) {
    const bool ordered = !(a.nan || b.nan);
    const bool same = a.low == a.high && b.low == b.high && a.low == b.low && ordered;
    const bool apart = a.high < b.low || a.low > b.high;
    const bool settled = a.low == a.high && b.low == b.high;
    switch (op) {
        case Op::lt: return decided(a.high < b.low && ordered, a.low >= b.high);
        case Op::le: return decided(a.high <= b.low && ordered, a.low > b.high);
        case Op::gt: return decided(a.low > b.high && ordered, a.high <= b.low);
        case Op::ge: return decided(a.low >= b.high && ordered, a.high < b.low);
        case Op::eq: return decided(same, apart);
        case Op::ne: return decided(apart, same);
        case Op::logical_and: return {std::min(a.low, b.low), std::min(a.high, b.high)};
        case Op::logical_or: return {std::max(a.low, b.low), std::max(a.high, b.high)};
        default: return decided(settled && a.low != b.low, settled && a.low == b.low);  // xor
    }
}

Interval binary(const BoundNode& node, const Interval& a, const Interval& b) {
    const bool nan = a.nan || b.nan;
    double ends[4];
    switch (node.op) {
        case Op::add:
            return {a.low + b.low, a.high + b.high,
                    nan || (a.high == kInfinity && b.low == -kInfinity) || (a.low == -kInfinity && b.high == kInfinity)};
        case Op::sub:
            return {a.low - b.high, a.high - b.low,
                    nan || (a.high == kInfinity && b.high == kInfinity) || (a.low == -kInfinity && b.low == -kInfinity)};
        case Op::mul:
            ends[0] = product(a.low, b.low), ends[1] = product(a.low, b.high);
            ends[2] = product(a.high, b.low), ends[3] = product(a.high, b.high);
            return extremes(ends, nan || (a.has_zero() && b.infinite()) || (b.has_zero() && a.infinite()));
        case Op::div:
        case Op::floordiv: {
            if (b.has_zero()) return kUnknown;
            const bool down = node.op == Op::floordiv;
            ends[0] = a.low / b.low, ends[1] = a.low / b.high, ends[2] = a.high / b.low, ends[3] = a.high / b.high;
            if (down) for (double& x : ends) x = std::floor(x);
            return extremes(ends, nan || (a.infinite() && (down || b.infinite())));
        }
        case Op::mod: return modulo(a, b, node.kind == Kind::whole);
        case Op::min: return {std::min(a.low, b.low), std::min(a.high, b.high), nan};
        case Op::max: return {std::max(a.low, b.low), std::max(a.high, b.high), nan};
        default: return kUnknown;
    }
}

Interval unary(Op op, const Interval& a) {
    switch (op) {
        case Op::neg: return {-a.high, -a.low, a.nan};
        case Op::abs: {
            const double low = std::abs(a.low), high = std::abs(a.high);
            return {a.has_zero() ? 0.0 : std::min(low, high), std::max(low, high), a.nan};
        }
        case Op::to_float: return a;
        case Op::floor: return {std::floor(a.low), std::floor(a.high), a.nan || a.infinite()};
        case Op::sin:
        case Op::cos: return {-1.0, 1.0, a.nan || a.infinite()};
        case Op::erf: return {-1.0, 1.0, a.nan};
        default: return increasing(op, a);
    }
}

// Operations that make most masks, and that verdicts are asked of most often: of whole numbers, and of truth values.
bool is_of_whole_numbers(Op op) {
    switch (op) {
        case Op::add: case Op::sub: case Op::floordiv: case Op::mod:
        case Op::lt: case Op::le: case Op::gt: case Op::ge: case Op::eq: case Op::ne: return true;
        default: return false;
    }
}

bool exact(const Interval& x) { return std::abs(x.low) < kExact && std::abs(x.high) < kExact; }

int64_t divided_down(double x, int64_t by) {
    const auto whole = static_cast<int64_t>(x);
    return whole / by - (whole % by < 0);
}

// What `binary`, `truth` and `sound` say together of operands that are whole numbers or truth values, and so never NaN.
inline Interval whole_bound(Op op, const Interval& a, const Interval& b) {
    constexpr Interval unknown{-kInfinity, kInfinity};
    const auto sure = [&](const Interval& x) { return exact(x) ? x : unknown; };
    switch (op) {
        case Op::add: return sure({a.low + b.low, a.high + b.high});
        case Op::sub: return sure({a.low - b.high, a.high - b.low});
        case Op::floordiv:
        case Op::mod: {
            if (b.low != b.high || !(b.low > 0) || !exact(a) || !exact(b)) {
                if (op == Op::mod && b.low > 0 && exact(b)) return {0.0, b.high - 1};
                return unknown;
            }
            const auto by = static_cast<int64_t>(b.low);
            const double first = static_cast<double>(divided_down(a.low, by)), last = static_cast<double>(divided_down(a.high, by));
            if (op == Op::floordiv) return {first, last};
            return first == last ? Interval{a.low - b.low * first, a.high - b.low * first} : Interval{0.0, b.low - 1};
        }
        case Op::lt: return decided(a.high < b.low, a.low >= b.high);
        case Op::le: return decided(a.high <= b.low, a.low > b.high);
        case Op::gt: return decided(a.low > b.high, a.high <= b.low);
        case Op::ge: return decided(a.low >= b.high, a.high < b.low);
        case Op::eq: return decided(a.low == a.high && b.low == b.high && a.low == b.low, a.high < b.low || a.low > b.high);
        case Op::ne: return decided(a.high < b.low || a.low > b.high, a.low == a.high && b.low == b.high && a.low == b.low);
        case Op::logical_and: return {a.low < b.low ? a.low : b.low, a.high < b.high ? a.high : b.high};
        default: return {a.low > b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
    }
}

// Unknown where a bound could not be computed, or lies where the kind's arithmetic is not that of numbers.
Interval sound(const BoundNode& node, Interval x) {
    bool unknown = std::isnan(x.low) || std::isnan(x.high);
    if (node.kind == Kind::boolean) return unknown ? Interval{0.0, 1.0} : x;
    if (node.kind == Kind::whole) {
        unknown = unknown || x.nan || std::max(std::abs(x.low), std::abs(x.high)) >= kExact;
        return unknown ? Interval{-kInfinity, kInfinity} : Interval{x.low, x.high};
    }
    if (unknown) x = kUnknown;
    switch (node.op) {
        case Op::add: case Op::sub: case Op::mul: case Op::div: case Op::floordiv: case Op::mod: case Op::pow:
        case Op::sin: case Op::cos: case Op::erf:
            return rounded(x);
        default: return x;
    }
}

template <class E> E plain(E value) { return value; }
float plain(BF16 value) { return widened(value); }
float plain(F16 value) { return widened(value); }

// The extremes of each chunk of one line; false where a value is NaN.
template <class E>
bool scan(const void* data, int64_t start, int64_t step, int64_t length, int64_t chunk, double* low, double* high) {
    const E* from = static_cast<const E*>(data) + start;
    bool sound = true;
    for (int64_t first = 0; first < length; first += chunk, ++low, ++high) {
        const int64_t last = std::min(first + chunk, length);
        auto least = plain(from[first * step]), most = least;
        bool nan = false;
        for (int64_t k = first; k < last; ++k) {
            const auto value = plain(from[k * step]);
            least = value < least ? value : least;
            most = value > most ? value : most;
            nan |= value != value;
        }
        sound &= !nan;
        *low = static_cast<double>(least), *high = static_cast<double>(most);
    }
    return sound;
}

using Scan = bool (*)(const void*, int64_t, int64_t, int64_t, int64_t, double*, double*);

Scan scan_of(Elements elements) {
    switch (elements) {
        case Elements::boolean:
        case Elements::u8: return scan<uint8_t>;
        case Elements::i8: return scan<int8_t>;
        case Elements::i16: return scan<int16_t>;
        case Elements::i32: return scan<int32_t>;
        case Elements::i64: return scan<int64_t>;
        case Elements::f32: return scan<float>;
        case Elements::f64: return scan<double>;
        case Elements::bf16: return scan<BF16>;
        default: return scan<F16>;
    }
}

int64_t clamped(double at, int64_t size) {
    return at <= 0 ? 0 : at >= static_cast<double>(size - 1) ? size - 1 : static_cast<int64_t>(at);
}

}  // namespace

bool Interval::infinite() const { return std::isinf(low) || std::isinf(high); }

std::shared_ptr<const Ranges> Ranges::learn(const TableParts& table) {
    int64_t elements = 1;
    for (int64_t size : table.sizes) {
        if (size == 0 || elements > kLearnt / size) return nullptr;
        elements *= size;
    }
    if (!table.learn) return nullptr;
    auto made = std::make_shared<Ranges>();
    auto whole = std::make_shared<Ranges>();
    const int64_t rank = static_cast<int64_t>(table.sizes.size());
    made->sizes_ = table.sizes;
    for (int64_t n = 1; n < rank; ++n) if (table.sizes[n] > table.sizes[made->axis_]) made->axis_ = n;
    made->length_ = rank ? table.sizes[made->axis_] : 1;
    made->lines_ = elements / made->length_;
    made->chunk_ = elements <= kSmallTable ? 1 : kRadix;
    const int64_t width = (made->length_ + made->chunk_ - 1) / made->chunk_;
    Level first{std::vector<double>(made->lines_ * width, kInfinity), std::vector<double>(made->lines_ * width, -kInfinity)};
    Level all{std::vector<double>(width, kInfinity), std::vector<double>(width, -kInfinity)};
    const bool whole_numbers = table.table.elements < Elements::f32;
    const int64_t step = rank ? table.strides[made->axis_] : 0;
    const Scan scanned = scan_of(table.table.elements);
    for (int64_t line = 0; line < made->lines_; ++line) {
        int64_t start = 0, rest = line;
        for (int64_t n = rank - 1; n >= 0; --n) {
            if (n == made->axis_) continue;
            start += rest % table.sizes[n] * table.strides[n];
            rest /= table.sizes[n];
        }
        double* low = first.low.data() + line * width;
        double* high = first.high.data() + line * width;
        if (!scanned(table.table.data, start, step, made->length_, made->chunk_, low, high)) return nullptr;
        for (int64_t k = 0; k < width; ++k) {
            if (whole_numbers && std::max(std::abs(low[k]), std::abs(high[k])) >= kExact) return nullptr;
            all.low[k] = std::min(all.low[k], low[k]), all.high[k] = std::max(all.high[k], high[k]);
        }
    }
    const auto grow = [](Ranges& out, Level level, int64_t columns) {
        out.levels_.push_back(std::move(level));
        out.widths_.push_back(columns);
        while (columns > kRadix) {
            const int64_t next = (columns + kRadix - 1) / kRadix;
            Level coarse{std::vector<double>(out.lines_ * next, kInfinity), std::vector<double>(out.lines_ * next, -kInfinity)};
            const Level& last = out.levels_.back();
            for (int64_t line = 0; line < out.lines_; ++line) {
                for (int64_t k = 0; k < columns; ++k) {
                    const int64_t at = line * next + k / kRadix;
                    coarse.low[at] = std::min(coarse.low[at], last.low[line * columns + k]);
                    coarse.high[at] = std::max(coarse.high[at], last.high[line * columns + k]);
                }
            }
            columns = next;
            out.levels_.push_back(std::move(coarse));
            out.widths_.push_back(columns);
        }
    };
    if (made->lines_ > 1) {
        whole->length_ = made->length_, whole->chunk_ = made->chunk_;
        grow(*whole, std::move(all), width);
        made->whole_ = whole;
    }
    grow(*made, std::move(first), width);
    return made;
}

Interval Ranges::stretch(int64_t line, int64_t first, int64_t last) const {
    Interval out{kInfinity, -kInfinity};
    int64_t a = first / chunk_, b = last / chunk_;  // chunks of the level, inclusive
    for (std::size_t level = 0;; ++level) {
        const Level& at = levels_[level];
        const int64_t width = widths_[level];
        const auto take = [&](int64_t chunk) {
            out.low = std::min(out.low, at.low[line * width + chunk]);
            out.high = std::max(out.high, at.high[line * width + chunk]);
        };
        if (b - a < 2 * kRadix || level + 1 == levels_.size()) {
            for (int64_t n = a; n <= b; ++n) take(n);
            return out;
        }
        while (a % kRadix) take(a++);
        while ((b + 1) % kRadix && b + 1 != width) take(b--);
        a /= kRadix, b /= kRadix;
    }
}

bool Ranges::leaves(const Interval* indices) const {
    for (std::size_t n = 0; n < sizes_.size(); ++n) {
        if (!(indices[n].low >= 0.0 && indices[n].high <= static_cast<double>(sizes_[n] - 1))) return true;
    }
    return false;
}

Interval Ranges::query(const Interval* indices) const {
    const int64_t rank = static_cast<int64_t>(sizes_.size());
    if (rank == 0) return stretch(0, 0, 0);
    const int64_t first = clamped(indices[axis_].low, length_), last = clamped(indices[axis_].high, length_);
    if (!whole_) return stretch(0, first, last);
    int64_t lines = 1, start = 0;
    int64_t lows[kTableAxes], counts[kTableAxes];
    for (int64_t n = 0; n < rank; ++n) {
        if (n == axis_) continue;
        lows[n] = clamped(indices[n].low, sizes_[n]);
        counts[n] = clamped(indices[n].high, sizes_[n]) - lows[n] + 1;
        start = start * sizes_[n] + lows[n];
        lines = lines > kFewLines ? lines : lines * counts[n];
    }
    if (lines == 1) return stretch(start, first, last);
    if (lines > kFewLines) return whole_->stretch(0, first, last);
    Interval out{kInfinity, -kInfinity};
    for (int64_t number = 0; number < lines; ++number) {
        int64_t rest = number, line = 0, scale = 1;
        for (int64_t n = rank - 1; n >= 0; --n) {
            if (n == axis_) continue;
            line += (lows[n] + rest % counts[n]) * scale;
            rest /= counts[n];
            scale *= sizes_[n];
        }
        const Interval one = stretch(line, first, last);
        out.low = std::min(out.low, one.low), out.high = std::max(out.high, one.high);
    }
    return out;
}

Interval index_bounds(const Coordinate& coordinate, int64_t first, int64_t count) {
    if (coordinate.divisor == 1 && first + count <= coordinate.size) {  // the usual case, without a division
        return {static_cast<double>(first), static_cast<double>(first + count - 1)};
    }
    const int64_t a = first / coordinate.divisor, b = (first + count - 1) / coordinate.divisor;
    const double last = static_cast<double>(coordinate.size - 1);
    if (b - a + 1 >= coordinate.size) return {0.0, last};
    const int64_t low = a % coordinate.size, high = b % coordinate.size;
    return low <= high ? Interval{static_cast<double>(low), static_cast<double>(high)} : Interval{0.0, last};
}

Interval bound_of(const BoundNode& node, const Interval* operands, const Kind* kinds) {
    if (node.op == Op::lookup) {
        if (!node.ranges || node.ranges->leaves(operands)) return node.kind == Kind::boolean ? Interval{0.0, 1.0} : kUnknown;
        const Interval found = node.ranges->query(operands);
        return node.wide_table && node.kind == Kind::real ? rounded(found) : found;
    }
    if (node.op == Op::select) {
        const auto branch = [&](int n) {
            return node.rounds && kinds[n] == Kind::whole && large(operands[n]) ? rounded(operands[n]) : operands[n];
        };
        return sound(node, select(operands[0], branch(1), branch(2)));
    }
    Interval a = operands[0], b = node.operands[1] >= 0 ? operands[1] : Interval{0, 0};
    if (node.rounds) {  // where one of them is a float, large whole numbers are rounded to floats with it
        if (kinds[0] == Kind::whole && large(a)) a = rounded(a);
        if (node.operands[1] >= 0 && kinds[1] == Kind::whole && large(b)) b = rounded(b);
    }
    if (node.op == Op::logical_not) return {1.0 - a.high, 1.0 - a.low};
    if (node.kind == Kind::boolean) return sound(node, truth(node.op, a, b));
    return sound(node, node.operands[1] < 0 ? unary(node.op, a) : binary(node, a, b));
}

namespace {

Interval constant_bounds(const Node& node) {
    if (node.kind != Kind::real) {
        const double value = static_cast<double>(node.whole);
        return sound({Op::constant, node.kind, false, false, false, {-1, -1, -1}, -1, {}, nullptr}, {value, value});
    }
    if (std::isnan(node.real)) return kUnknown;
    const Interval exact{node.real, node.real};
    return static_cast<double>(static_cast<float>(node.real)) == node.real ? exact : rounded(exact);
}

BoundNode bound_node(const Node& node, const std::vector<Node>& nodes, const std::vector<TableParts>& tables,
                     const std::vector<std::shared_ptr<const Ranges>>& ranges) {
    BoundNode out{node.op, node.kind, false, false, false, {-1, -1, -1}, -1, node.indices, nullptr};
    for (int n = 0; n < 3; ++n) {
        out.operands[n] = node.operands[n];
        if (node.operands[n] >= 0) out.rounds |= nodes[node.operands[n]].kind == Kind::real;
    }
    if (node.op == Op::lookup) {
        out.ranges = ranges[node.which];
        const Elements elements = tables[node.which].table.elements;
        out.wide_table = elements == Elements::f64;
    } else {
        out.coordinate = node.which;
        const auto is = [&](int n, Kind kind) { return node.operands[n] >= 0 && nodes[node.operands[n]].kind == kind; };
        out.plain = (is_of_whole_numbers(node.op) && is(0, Kind::whole) && is(1, Kind::whole)) ||
                    ((node.op == Op::logical_and || node.op == Op::logical_or) && is(0, Kind::boolean) && is(1, Kind::boolean));
    }
    return out;
}

bool leaf(Op op) { return op == Op::position || op == Op::index || op == Op::size || op == Op::score || op == Op::constant; }

int64_t whole_count(const Coordinate& coordinate) { return coordinate.size * coordinate.divisor; }

Interval leaf_bounds(const Node& node, const std::vector<Coordinate>& coordinates, Interval index) {
    switch (node.op) {
        case Op::constant: return constant_bounds(node);
        case Op::size: {
            const double size = static_cast<double>(coordinates[node.which].size);
            return {size, size};
        }
        case Op::index: return index;
        case Op::position: {
            const double offset = static_cast<double>(coordinates[node.which].offset);
            return {index.low + offset, index.high + offset};
        }
        default: return kUnknown;
    }
}

constexpr int kMostOperands = kTableAxes;

}  // namespace

std::vector<Interval> call_bounds(const Parts& parts, const std::vector<bool>& needed,
                                  const std::vector<Coordinate>& coordinates, const std::vector<TableParts>& tables,
                                  const std::vector<std::shared_ptr<const Ranges>>& ranges) {
    std::vector<Interval> out(parts.nodes.size(), kUnknown);
    Interval operands[kMostOperands];
    Kind kinds[kMostOperands];
    for (std::size_t n = 0; n < parts.nodes.size(); ++n) {
        if (!needed[n]) continue;
        const Node& node = parts.nodes[n];
        if (leaf(node.op)) {
            Interval index{0, 0};
            if (node.op == Op::position || node.op == Op::index) {
                index = index_bounds(coordinates[node.which], 0, whole_count(coordinates[node.which]));
            }
            out[n] = leaf_bounds(node, coordinates, index);
            continue;
        }
        int count = 0;
        const auto add = [&](int32_t at) { kinds[count] = parts.nodes[at].kind, operands[count++] = out[at]; };
        if (node.op == Op::lookup) for (int32_t at : node.indices) add(at);
        else for (int32_t at : node.operands) if (at >= 0) add(at);
        out[n] = bound_of(bound_node(node, parts.nodes, tables, ranges), operands, kinds);
    }
    return out;
}

std::unique_ptr<Bounds> block_bounds(const Parts& parts, const std::vector<Coordinate>& coordinates,
                                     const std::vector<TableParts>& tables,
                                     const std::vector<std::shared_ptr<const Ranges>>& ranges) {
    const auto& nodes = parts.nodes;
    std::vector<bool> needed(nodes.size()), varies(nodes.size()), by_key(nodes.size());
    needed[parts.keep] = true;
    for (int32_t n = parts.keep; n >= 0; --n) {
        if (!needed[n]) continue;
        for (int32_t at : nodes[n].operands) if (at >= 0) needed[at] = true;
        for (int32_t at : nodes[n].indices) needed[at] = true;
    }
    for (int32_t n = 0; n <= parts.keep; ++n) {
        bool moves = nodes[n].op == Op::position || nodes[n].op == Op::index;
        for (int32_t at : nodes[n].operands) moves = moves || (at >= 0 && varies[at]);
        for (int32_t at : nodes[n].indices) moves = moves || varies[at];
        varies[n] = moves;
        bool keyed = moves && nodes[n].which >= 0 && (nodes[n].op == Op::position || nodes[n].op == Op::index) &&
                     coordinates[nodes[n].which].role == Role::key;
        for (int32_t at : nodes[n].operands) keyed = keyed || (at >= 0 && by_key[at]);
        for (int32_t at : nodes[n].indices) keyed = keyed || by_key[at];
        by_key[n] = keyed;
    }
    const std::vector<Interval> whole = call_bounds(parts, needed, coordinates, tables, ranges);
    auto out = std::make_unique<Bounds>();
    std::vector<int32_t> place(nodes.size(), -1);
    for (int32_t n = 0; n <= parts.keep; ++n) {
        if (!needed[n] || varies[n]) continue;
        place[n] = static_cast<int32_t>(out->fixed.size());
        out->fixed.push_back(whole[n]);
    }
    // Nodes that no key changes stand first: they are bounded once for many blocks of the same rows.
    for (const bool keyed : {false, true}) {
        for (int32_t n = 0; n <= parts.keep; ++n) {
            if (!needed[n] || !varies[n] || by_key[n] != keyed) continue;
            place[n] = static_cast<int32_t>(out->fixed.size() + out->nodes.size());
            const bool counts = nodes[n].op == Op::position || nodes[n].op == Op::index;
            out->by_shared = out->by_shared || (counts && coordinates[nodes[n].which].role == Role::shared);
            out->looks_up = out->looks_up || nodes[n].op == Op::lookup;
            BoundNode made = bound_node(nodes[n], nodes, tables, ranges);
            for (int32_t& at : made.operands) at = at < 0 ? -1 : place[at];
            for (int32_t& at : made.indices) at = place[at];
            out->nodes.push_back(std::move(made));
        }
        if (!keyed) out->num_by_row = static_cast<int32_t>(out->nodes.size());
    }
    static std::atomic<uint64_t> serial{0};
    out->serial = ++serial;
    out->coordinates = coordinates;
    out->root = place[parts.keep];
    return out;
}

namespace {

Kind kind_at(const Bounds& bounds, int32_t at) {
    const int32_t fixed = static_cast<int32_t>(bounds.fixed.size());
    return at < fixed ? Kind::whole : bounds.nodes[at - fixed].kind;  // fixed ones are rounded as whole numbers are
}

// Bounds of the root over a place; the first `known` nodes are in `done` already.
Interval block(const Bounds& bounds, Interval* done, const Place& place, int32_t known) {
    const int32_t fixed = static_cast<int32_t>(bounds.fixed.size());
    if (bounds.root < fixed) return bounds.fixed[bounds.root];
    const auto get = [&](int32_t at) -> const Interval& { return at < fixed ? bounds.fixed[at] : done[at - fixed]; };
    const int32_t last = bounds.root - fixed;
    for (int32_t n = known; n <= last; ++n) {
        const BoundNode& node = bounds.nodes[n];
        if (node.op == Op::position || node.op == Op::index) {
            const Coordinate& coordinate = bounds.coordinates[node.coordinate];
            Interval& out = done[n];
            switch (coordinate.role) {
                case Role::shared: out = index_bounds(coordinate, place.shared, 1); break;
                case Role::row: out = index_bounds(coordinate, place.row0, place.rows); break;
                default: out = index_bounds(coordinate, place.key0, place.keys); break;
            }
            if (node.op == Op::position) {
                out.low += static_cast<double>(coordinate.offset);
                out.high += static_cast<double>(coordinate.offset);
            }
            continue;
        }
        if (node.op == Op::lookup) {
            Interval operands[kMostOperands];
            int count = 0;
            for (int32_t at : node.indices) operands[count++] = get(at);
            done[n] = bound_of(node, operands, nullptr);
            continue;
        }
        if (node.plain) {
            done[n] = whole_bound(node.op, get(node.operands[0]), get(node.operands[1]));
            continue;
        }
        Interval operands[3];
        Kind kinds[3] = {Kind::whole, Kind::whole, Kind::whole};
        for (int m = 0; m < 3 && node.operands[m] >= 0; ++m) {
            operands[m] = get(node.operands[m]);
            if (node.rounds) kinds[m] = kind_at(bounds, node.operands[m]);
        }
        done[n] = bound_of(node, operands, kinds);
    }
    return done[last];
}

// What a thread bounded last for a few groups of rows: blocks of keys are asked for one after the other.
struct Remembered {
    uint64_t serial = 0;
    int64_t shared = 0, row0 = 0, rows = 0;
    int32_t known = 0;  // nodes of `done` that hold for these rows
    std::vector<Interval> done;
};

constexpr int32_t kWorthKeeping = 6;  // nodes; fewer that read no table are bounded sooner than they are found

// Verdicts of this thread: heads that share a mask ask for the same blocks, one head after the other.
struct Asked {
    uint64_t serial = 0;
    int64_t row0 = 0, key0 = 0;
    uint16_t rows = 0, keys = 0;
    Verdict verdict = Verdict::some;
};

constexpr int kAskedBits = 13;            // of their number: what some hundred rows ask for, and few in one place
constexpr int64_t kMostAsked = 0xffff;    // rows or keys of a block that is remembered

Asked& asked_for(const Bounds& bounds, const Place& place) {
    static thread_local std::vector<Asked> all(std::size_t{1} << kAskedBits);
    const auto bits = [](int64_t x) { return static_cast<uint64_t>(x); };
    uint64_t mixed = (bits(place.row0) << 32) ^ bits(place.key0) ^ (bits(place.keys) << 20) ^ (bits(place.rows) << 40) ^
                     (bounds.serial << 52);
    for (const uint64_t factor : {0x9e3779b97f4a7c15u, 0xbf58476d1ce4e5b9u}) mixed = (mixed ^ (mixed >> 29)) * factor;
    return all[mixed >> (64 - kAskedBits)];
}

Remembered& remembered(const Bounds& bounds, const Place& place) {
    static thread_local Remembered slots[4];
    static thread_local int next = 0;
    for (Remembered& slot : slots) {
        if (slot.serial == bounds.serial && slot.shared == place.shared && slot.row0 == place.row0 && slot.rows == place.rows)
            return slot;
    }
    Remembered& slot = slots[next];
    next = (next + 1) % 4;
    if (slot.done.size() < bounds.nodes.size()) slot.done.resize(bounds.nodes.size());
    slot.serial = bounds.serial, slot.shared = place.shared, slot.row0 = place.row0, slot.rows = place.rows;
    slot.known = 0;
    return slot;
}

}  // namespace

Verdict keep_verdict(const Terms& terms, int64_t shared, int64_t row0, int64_t rows, int64_t key0, int64_t keys) {
    if (!terms.bounds) return Verdict::all;
    if (rows <= 0 || keys <= 0) return Verdict::none;
    const Bounds& bounds = *terms.bounds;
    const Place place{bounds.by_shared ? shared : 0, row0, rows, key0, keys};
    constexpr std::size_t few = 64;
    const auto verdict_of = [](const Interval& found) {
        if (found.high == 0) return Verdict::none;
        return found.low == 1 ? Verdict::all : Verdict::some;
    };
    if (bounds.num_by_row < kWorthKeeping && !bounds.looks_up && bounds.nodes.size() <= few) {
        Interval done[few];
        return verdict_of(block(bounds, done, place, 0));
    }
    const bool remembers = !bounds.by_shared && rows <= kMostAsked && keys <= kMostAsked;
    Asked* asked = remembers ? &asked_for(bounds, place) : nullptr;
    if (asked && asked->serial == bounds.serial && asked->row0 == row0 && asked->key0 == key0 && asked->rows == rows &&
        asked->keys == keys)
        return asked->verdict;
    Remembered& kept = remembered(bounds, place);
    const Verdict found = verdict_of(block(bounds, kept.done.data(), place, kept.known));
    kept.known = bounds.num_by_row;
    if (asked)
        *asked = {bounds.serial, row0, key0, static_cast<uint16_t>(rows), static_cast<uint16_t>(keys), found};
    return found;
}

}  // namespace qkv
