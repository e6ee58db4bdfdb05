// From a graph to programs: which class each value belongs to, which type holds it, where its strip lies.
//
// Two programs are made of each part. `general` is right for every tile. `fast` takes the keys of a tile to stand
// beside one another, so that tables are read in lines along keys and what depends on the difference of two positions
// alone is computed once for each diagonal.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "graph.h"
#include "interval.h"

namespace qkv {
namespace {

constexpr double kNarrow = 0x1p30;  // whole numbers up to here are computed in 32 bits

// A value of the program that is made: where it will lie is settled last.
struct Value {
    int32_t number = -1;  // of a strip; -1 for the score, constants are apart
    int32_t constant = -1;
    Class cls = Class::uniform;
    Type type = Type::i;
};

struct Made {
    Strip strip;
    Class section;
    Value out;
    Value in[3];
    int32_t which = -1;
};

Class joined(Class a, Class b) {
    if (a == b || b == Class::uniform) return a;
    return a == Class::uniform ? b : Class::full;
}

Strip at(Strip first, int step) { return static_cast<Strip>(static_cast<int>(first) + step); }
int among(Type type) { return type == Type::i ? 0 : type == Type::l ? 1 : type == Type::f ? 2 : 3; }
Strip numeric(Strip first, Type type) { return at(first, among(type)); }
Strip real(Strip first, Type type) { return at(first, type == Type::f ? 0 : 1); }

// What a node depends on, for the pair of coordinates whose difference is looked for.
struct Reads {
    bool query = false, key = false, other = false;
    std::optional<int64_t> shift = 0;  // by how much the value grows when both positions grow by one
};

class Maker {
  public:
    Maker(const Parts& parts, const std::vector<Coordinate>& coordinates, const std::vector<TableParts>& tables,
          const std::vector<Interval>& bounds, const std::vector<std::shared_ptr<const Ranges>>& ranges, bool wide, bool fast)
        : parts_(parts), coordinates_(coordinates), tables_(tables), bounds_(bounds), ranges_(ranges),
          real_(wide ? Type::d : Type::f), fast_(fast) {}

    // The roots are the result, then the checks' conditions, then the gradients' values.
    Program make(int32_t result, const std::vector<Parts::Guard>& guards, const std::vector<Parts::Gradient>& gradients,
                 Type wanted, BoundTerms& home) {
        if (fast_) choose_pair(result, guards, gradients);
        analyse();
        needs_.assign(parts_.nodes.size(), 0);
        if (result >= 0) needs_[result] |= 1;
        for (const auto& guard : guards) if (!inside(guard.lookup)) needs_[guard.beyond] |= 1;
        for (const auto& gradient : gradients) {
            needs_[gradient.value] |= 1;
            for (int32_t index : parts_.nodes[gradient.lookup].indices) needs_[index] |= 1;
        }
        spread_needs();
        plain_.assign(parts_.nodes.size(), Value{});
        diagonal_.assign(parts_.nodes.size(), Value{});
        for (int32_t n = 0; n < static_cast<int32_t>(parts_.nodes.size()); ++n) {
            if (needs_[n] & 2) diagonal_[n] = emit(n, true);
            if (needs_[n] & 1) plain_[n] = diagonal(n) ? diagonal_[n] : emit(n, false);
        }
        Program out{};
        out.present = true;
        Value root;
        if (result >= 0) root = converted(plain_[result], wanted), roots_.push_back(root);
        struct Sum { Parts::Gradient gradient; Value value, scalar, strip; Scatter::How how; int64_t step; };
        std::vector<Sum> sums;
        for (const auto& gradient : gradients) {
            Sum sum{gradient, converted(plain_[gradient.value], real_), {}, {}, Scatter::How::one, 0};
            Address address = locate(parts_.nodes[gradient.lookup], false, true, Class::full);
            sum.scalar = address.scalar;
            if (address.line) sum.how = Scatter::How::line, sum.step = address.step;
            else if (address.has_strip) sum.how = Scatter::How::strip, sum.strip = address.strip;
            if (sum.how == Scatter::How::strip) sum.strip = converted(sum.strip, Type::l), roots_.push_back(sum.strip);
            roots_.push_back(sum.value), roots_.push_back(sum.scalar);
            sums.push_back(sum);
        }
        std::vector<std::pair<int32_t, Value>> where;
        for (const auto& guard : guards) {
            if (inside(guard.lookup)) continue;
            where.emplace_back(guard.lookup, plain_[guard.beyond]);
            roots_.push_back(plain_[guard.beyond]);
        }
        drop_unused();
        place(out, home);
        out.result = result >= 0 ? reference(root) : Reference{};
        auto checks = std::make_unique<std::vector<Check>>();
        for (const auto& [lookup, value] : where) checks->push_back({lookup, reference(value)});
        auto scatters = std::make_unique<std::vector<Scatter>>();
        for (const Sum& sum : sums) {
            Reference strip = sum.how == Scatter::How::strip ? reference(sum.strip) : Reference{};
            scatters->push_back({sum.how, parts_.nodes[sum.gradient.lookup].which, reference(sum.value), reference(sum.scalar), strip, sum.step});
        }
        out.checks = checks->data(), out.num_checks = static_cast<int32_t>(checks->size());
        out.scatters = scatters->data(), out.num_scatters = static_cast<int32_t>(scatters->size());
        home.checks.push_back(std::move(checks));
        home.scatters.push_back(std::move(scatters));
        auto constants = std::make_unique<std::vector<uint64_t>>(constants_);
        out.constants = constants->data();
        home.constants.push_back(std::move(constants));
        out.along_keys = along_keys_;
        out.row_coordinate = diagonals_used_ ? query_ : -1;
        out.key_coordinate = along_keys_ ? key_ : -1;
        return out;
    }

  private:
    struct Address {
        Value scalar, strip;
        bool has_strip = false, line = false;
        int64_t step = 0;
    };

    // ---- which values stand on diagonals

    void choose_pair(int32_t result, const std::vector<Parts::Guard>& guards, const std::vector<Parts::Gradient>& gradients) {
        for (std::size_t n = 0; n < coordinates_.size(); ++n) {
            if (coordinates_[n].role == Role::key && coordinates_[n].divisor == 1) key_ = static_cast<int32_t>(n);
        }
        if (key_ < 0) return;
        int32_t best = -1;
        int most = 0;
        for (std::size_t n = 0; n < coordinates_.size(); ++n) {
            if (coordinates_[n].role != Role::row) continue;
            query_ = static_cast<int32_t>(n);
            analyse();
            int found = 0;
            for (int32_t m = 0; m < static_cast<int32_t>(parts_.nodes.size()); ++m) found += diagonal(m);
            if (found > most) most = found, best = query_;
        }
        query_ = best;
        (void)result, (void)guards, (void)gradients;
    }

    void analyse() {
        reads_.assign(parts_.nodes.size(), Reads{});
        for (std::size_t n = 0; n < parts_.nodes.size(); ++n) {
            const Node& node = parts_.nodes[n];
            Reads& out = reads_[n];
            const auto take = [&](int32_t m) {
                const Reads& in = reads_[m];
                out.query |= in.query, out.key |= in.key, out.other |= in.other;
            };
            switch (node.op) {
                case Op::constant: case Op::size: break;
                case Op::score: out.other = true; break;
                case Op::position: case Op::index: {
                    const Role role = coordinates_[node.which].role;
                    if (role == Role::shared) break;
                    const bool moves = node.op == Op::position;
                    if (moves && node.which == query_) out.query = true;
                    else if (moves && node.which == key_) out.key = true;
                    else out.other = true;
                    if (!out.other) out.shift = 1;
                    break;
                }
                case Op::lookup:
                    for (int32_t m : node.indices) {
                        take(m);
                        if (reads_[m].shift != 0) out.shift.reset();
                    }
                    if (!inside(static_cast<int32_t>(n))) out.other = true;
                    break;
                default:
                    for (int32_t m : node.operands) if (m >= 0) take(m);
                    out.shift = shifted(node);
            }
        }
    }

    std::optional<int64_t> shifted(const Node& node) const {
        std::optional<int64_t> grown[3] = {0, 0, 0};
        bool whole = true, any = false;
        for (int n = 0; n < 3 && node.operands[n] >= 0; ++n) {
            grown[n] = reads_[node.operands[n]].shift;
            if (!grown[n]) return std::nullopt;
            any |= *grown[n] != 0;
            whole &= parts_.nodes[node.operands[n]].kind != Kind::real;  // sums of floats are rounded
        }
        if (!any) return 0;
        if (!whole) return std::nullopt;
        const auto bounded = [](int64_t x) -> std::optional<int64_t> {
            return x > -kMostShift && x < kMostShift ? std::optional<int64_t>(x) : std::nullopt;
        };
        switch (node.op) {
            case Op::add: return bounded(*grown[0] + *grown[1]);
            case Op::sub: return bounded(*grown[0] - *grown[1]);
            case Op::neg: return bounded(-*grown[0]);
            case Op::mul:
                for (int n = 0; n < 2; ++n) {
                    const Node& number = parts_.nodes[node.operands[n]];
                    if (number.op != Op::constant || std::abs(number.whole) >= kMostShift) continue;
                    return bounded(number.whole * *grown[1 - n]);
                }
                return std::nullopt;
            case Op::lt: case Op::le: case Op::eq: case Op::ne: case Op::gt: case Op::ge:
                return grown[0] == grown[1] ? std::optional<int64_t>(0) : std::nullopt;
            case Op::min: case Op::max: return grown[0] == grown[1] ? grown[0] : std::nullopt;
            case Op::select: return grown[0] == 0 && grown[1] == grown[2] ? grown[1] : std::nullopt;
            default: return std::nullopt;
        }
    }

    bool diagonal(int32_t n) const {
        const Reads& reads = reads_[n];
        return fast_ && query_ >= 0 && key_ >= 0 && reads.query && reads.key && !reads.other && reads.shift == 0;
    }

    void spread_needs() {
        for (int32_t n = static_cast<int32_t>(parts_.nodes.size()) - 1; n >= 0; --n) {
            if ((needs_[n] & 1) && diagonal(n)) needs_[n] = 2 | 1;
            const uint8_t below = (needs_[n] & 2) | ((needs_[n] & 1) && !diagonal(n) ? 1 : 0);
            for (int32_t m : parts_.nodes[n].operands) if (m >= 0) needs_[m] |= below;
            for (int32_t m : parts_.nodes[n].indices) needs_[m] |= below;
        }
    }

    // ---- types

    bool inside(int32_t n) const {
        const Node& node = parts_.nodes[n];
        for (std::size_t axis = 0; axis < node.indices.size(); ++axis) {
            const Interval& bound = bounds_[node.indices[axis]];
            if (!(bound.low >= 0 && bound.high < static_cast<double>(tables_[node.which].sizes[axis])) || bound.nan) return false;
        }
        return true;
    }

    bool narrow(int32_t n, bool along) const {
        const Interval& bound = bounds_[n];
        double room = kNarrow;
        // diagonals reach beyond the positions of the tile
        if (along) room -= static_cast<double>(std::abs(reads_[n].shift.value_or(kMostShift)) * 2 * kTileKeys);
        return !bound.nan && bound.low >= -room && bound.high <= room;
    }

    Type type_of(int32_t n, bool along) const {
        const Node& node = parts_.nodes[n];
        if (node.kind == Kind::boolean) return Type::b;
        if (node.kind == Kind::real) return real_;
        return narrow(n, along) ? Type::i : Type::l;
    }

    // ---- instructions

    Value fresh(Class cls, Type type) { return Value{strips_++, -1, cls, type}; }

    Value constant(uint64_t bits, Type type) {
        const auto key = std::make_pair(bits, type);
        auto found = numbers_.find(key);
        if (found == numbers_.end()) {
            found = numbers_.emplace(key, static_cast<int32_t>(constants_.size())).first;
            constants_.push_back(bits);
        }
        return Value{-1, found->second, Class::uniform, type};
    }

    Value whole(int64_t value, Type type) {
        uint64_t bits = 0;
        if (type == Type::l) memcpy(&bits, &value, sizeof value);
        else { const int32_t narrow = static_cast<int32_t>(value); memcpy(&bits, &narrow, sizeof narrow); }
        return constant(bits, type);
    }

    Value fraction(double value, Type type) {
        uint64_t bits = 0;
        if (type == Type::d) memcpy(&bits, &value, sizeof value);
        else { const float narrow = static_cast<float>(value); memcpy(&bits, &narrow, sizeof narrow); }
        return constant(bits, type);
    }

    Value truth(bool value) { return whole(value ? -1 : 0, Type::b); }

    int64_t whole_of(Value value) const {
        const uint64_t bits = constants_[value.constant];
        if (value.type == Type::l) { int64_t out; memcpy(&out, &bits, sizeof out); return out; }
        int32_t out;
        memcpy(&out, &bits, sizeof out);
        return out;
    }

    static bool same(const Value& a, const Value& b) { return a.number == b.number && a.constant == b.constant && a.cls == b.cls; }

    Value run(Strip strip, Type type, std::initializer_list<Value> in, int32_t which = -1) {
        Class cls = Class::uniform;
        for (const Value& value : in) cls = joined(cls, value.cls);
        return run_in(cls, strip, type, in, which);
    }

    Value run_in(Class cls, Strip strip, Type type, std::initializer_list<Value> in, int32_t which = -1) {
        std::tuple<int, int, int, int, int, int, int, int> key{static_cast<int>(strip), static_cast<int>(cls), which, 0, 0, 0, 0, 0};
        Made made{strip, cls, {}, {}, which};
        int n = 0;
        int names[3] = {0, 0, 0};
        for (const Value& value : in) {
            names[n] = value.constant >= 0 ? -1000 - value.constant : value.cls == Class::full && value.number < 0 ? -1 : value.number + 1;
            made.in[n++] = value;
        }
        std::get<3>(key) = n, std::get<4>(key) = names[0], std::get<5>(key) = names[1], std::get<6>(key) = names[2];
        std::get<7>(key) = static_cast<int>(type);
        if (const auto found = known_.find(key); found != known_.end()) return found->second;
        made.out = fresh(cls, type);
        list_.push_back(made);
        known_.emplace(key, made.out);
        return made.out;
    }

    Value converted(Value value, Type type) {
        if (value.type == type) return value;
        if (value.constant >= 0 && value.type <= Type::l) {
            const int64_t number = value.type == Type::b ? whole_of(value) != 0 : whole_of(value);
            if (type == Type::i || type == Type::l) return whole(number, type);
            if (type == Type::f || type == Type::d) return fraction_of(number, type);
        }
        if (type == Type::b) return run(numeric(Strip::truth_i, value.type), Type::b, {value});
        switch (value.type) {
            case Type::b: return run(type == Type::i ? Strip::b_to_i : type == Type::l ? Strip::b_to_l : type == Type::f ? Strip::b_to_f : Strip::b_to_d, type, {value});
            case Type::i: return run(type == Type::l ? Strip::i_to_l : type == Type::f ? Strip::i_to_f : Strip::i_to_d, type, {value});
            case Type::l: return run(type == Type::i ? Strip::l_to_i : type == Type::f ? Strip::l_to_f : Strip::l_to_d, type, {value});
            default: throw GraphError("a float was to become a whole number without rounding");
        }
    }

    Value fraction_of(int64_t value, Type type) {
        uint64_t bits = 0;
        if (type == Type::d) { const double x = static_cast<double>(value); memcpy(&bits, &x, sizeof x); }
        else { const float x = static_cast<float>(value); memcpy(&bits, &x, sizeof x); }
        return constant(bits, type);
    }

    Value emit(int32_t n, bool along) {
        const Node& node = parts_.nodes[n];
        const Type type = type_of(n, along);
        const auto of = [&](int m) { return along ? diagonal_[node.operands[m]] : plain_[node.operands[m]]; };
        switch (node.op) {
            case Op::constant:
                if (node.kind == Kind::boolean) return truth(node.whole != 0);
                return node.kind == Kind::whole ? whole(node.whole, type) : fraction(node.real, type);
            case Op::size: return whole(coordinates_[node.which].size, type);
            case Op::score: return Value{-1, -1, Class::full, real_};
            case Op::position:
            case Op::index: return place_of(node, type, along);
            case Op::lookup: return look_up(n, along);
            case Op::select: {
                const Type branch = type;
                const Value a = converted(of(1), branch), b = converted(of(2), branch);
                return run(bytes_of(branch) == 4 ? Strip::select_4 : Strip::select_8, branch, {of(0), a, b});
            }
            case Op::logical_and: return logic(Strip::and_b, of(0), of(1));
            case Op::logical_or: return logic(Strip::or_b, of(0), of(1));
            case Op::logical_xor: return run(Strip::xor_b, Type::b, {of(0), of(1)});
            case Op::logical_not: return run(Strip::not_b, Type::b, {of(0)});
            case Op::floor: {
                const Value down = run(real(Strip::floor_f, real_), Type::l, {converted(of(0), real_)});
                return converted(down, type);
            }
            case Op::to_float: return converted(of(0), real_);
            default: return arithmetic(n, along, type);
        }
    }

    Value logic(Strip strip, Value a, Value b) {
        if (same(a, b)) return a;
        return run(strip, Type::b, {a, b});
    }

    Value arithmetic(int32_t n, bool along, Type type) {
        const Node& node = parts_.nodes[n];
        const bool two = node.operands[1] >= 0;
        Value a = along ? diagonal_[node.operands[0]] : plain_[node.operands[0]];
        Value b = two ? (along ? diagonal_[node.operands[1]] : plain_[node.operands[1]]) : Value{};
        const Op op = node.op;
        const bool compares = op >= Op::lt && op <= Op::ge;
        bool real_ones = node.kind == Kind::real;
        for (int m = 0; m < 2; ++m) if (node.operands[m] >= 0) real_ones |= parts_.nodes[node.operands[m]].kind == Kind::real;
        if (op == Op::pow && node.kind == Kind::whole) {
            const Value power = run(Strip::power_l, Type::l, {converted(a, Type::l), converted(b, Type::l)});
            return converted(power, type);
        }
        if (op == Op::pow && parts_.nodes[node.operands[1]].op == Op::constant && two_of(parts_.nodes[node.operands[1]])) {
            a = converted(a, real_);
            return run(real(Strip::mul_f, real_), real_, {a, a});
        }
        Type work = real_;
        if (!real_ones) {
            const auto small = [&](const Value& x) { return x.type != Type::l; };
            work = small(a) && (!two || small(b)) && (compares || type == Type::i) ? Type::i : Type::l;
        }
        a = converted(a, work);
        if (two) b = converted(b, work);
        Value out;
        switch (op) {
            case Op::add: out = run(numeric(Strip::add_i, work), work, {a, b}); break;
            case Op::sub: out = run(numeric(Strip::sub_i, work), work, {a, b}); break;
            case Op::mul: out = run(numeric(Strip::mul_i, work), work, {a, b}); break;
            case Op::floordiv: out = run(numeric(Strip::floordiv_i, work), work, {a, b}); break;
            case Op::mod: out = run(numeric(Strip::mod_i, work), work, {a, b}); break;
            case Op::min: out = run(numeric(Strip::min_i, work), work, {a, b}); break;
            case Op::max: out = run(numeric(Strip::max_i, work), work, {a, b}); break;
            case Op::lt: return run(numeric(Strip::lt_i, work), Type::b, {a, b});
            case Op::le: return run(numeric(Strip::le_i, work), Type::b, {a, b});
            case Op::gt: return run(numeric(Strip::lt_i, work), Type::b, {b, a});
            case Op::ge: return run(numeric(Strip::le_i, work), Type::b, {b, a});
            case Op::eq: return run(numeric(Strip::eq_i, work), Type::b, {a, b});
            case Op::ne: return run(numeric(Strip::ne_i, work), Type::b, {a, b});
            case Op::neg: out = run(numeric(Strip::neg_i, work), work, {a}); break;
            case Op::abs: out = run(numeric(Strip::abs_i, work), work, {a}); break;
            case Op::div:
                if (const auto inverse = reciprocal(node, work)) out = run(Strip::mul_f, work, {a, fraction(*inverse, work)});
                else out = run(real(Strip::div_f, work), work, {a, b});
                break;
            case Op::pow: out = run(real(Strip::pow_f, work), work, {a, b}); break;
            case Op::exp: out = run(real(Strip::exp_f, work), work, {a}); break;
            case Op::log: out = run(real(Strip::log_f, work), work, {a}); break;
            case Op::sqrt: out = run(real(Strip::sqrt_f, work), work, {a}); break;
            case Op::tanh: out = run(real(Strip::tanh_f, work), work, {a}); break;
            case Op::sigmoid: out = run(real(Strip::sigmoid_f, work), work, {a}); break;
            case Op::erf: out = run(real(Strip::erf_f, work), work, {a}); break;
            case Op::sin: out = run(real(Strip::sin_f, work), work, {a}); break;
            case Op::cos: out = run(real(Strip::cos_f, work), work, {a}); break;
            default: throw GraphError("an operation has no strip");
        }
        return converted(out, type);
    }

    // In float a division by a number becomes a product, which costs a tenth and is off by one rounding more. A mask
    // works on double, where every strategy divides.
    std::optional<double> reciprocal(const Node& division, Type work) const {
        const Node& divisor = parts_.nodes[division.operands[1]];
        if (work != Type::f || divisor.op != Op::constant) return std::nullopt;
        const double value = divisor.kind == Kind::real ? divisor.real : static_cast<double>(divisor.whole);
        const double size = std::abs(value);
        return size >= 0x1p-100 && size <= 0x1p100 ? std::optional<double>(1.0 / value) : std::nullopt;
    }

    static bool two_of(const Node& constant) { return constant.kind == Kind::real ? constant.real == 2 : constant.whole == 2; }

    Value place_of(const Node& node, Type type, bool along) {
        const bool position = node.op == Op::position;
        const bool wide = type == Type::l;
        if (along && position && node.which == key_) {
            along_keys_ = diagonals_used_ = true;
            return run_in(Class::diagonal, wide ? Strip::diagonal_key_l : Strip::diagonal_key_i, type, {}, node.which);
        }
        if (along && position && node.which == query_) {
            along_keys_ = diagonals_used_ = true;
            return run_in(Class::uniform, wide ? Strip::diagonal_row_l : Strip::diagonal_row_i, type, {}, node.which);
        }
        static constexpr Class classes[] = {Class::uniform, Class::row, Class::key};
        const Class cls = classes[static_cast<int>(coordinates_[node.which].role)];
        const Strip strip = position ? (wide ? Strip::position_l : Strip::position_i) : (wide ? Strip::index_l : Strip::index_i);
        return run_in(cls, strip, type, {}, node.which);
    }

    // ---- lookups: an offset that is one number for a strip, and one that changes along it

    static int64_t dense_stride(const std::vector<int64_t>& sizes, std::size_t axis) {
        int64_t stride = 1;
        for (std::size_t n = axis + 1; n < sizes.size(); ++n) stride *= std::max<int64_t>(sizes[n], 1);
        return stride;
    }

    Address locate(const Node& node, bool along, bool dense, Class at_least) {
        const TableParts& table = tables_[node.which];
        std::vector<Value> indices;
        Class cls = at_least;
        for (std::size_t axis = 0; axis < node.indices.size(); ++axis) {
            const int32_t m = node.indices[axis];
            Value index = along ? diagonal_[m] : plain_[m];
            if (index.type == Type::b) index = converted(index, Type::i);
            const Interval& bound = bounds_[m];
            const int64_t last = table.sizes[axis] - 1;
            if (bound.nan || !(bound.low >= 0)) index = run(numeric(Strip::max_i, index.type), index.type, {index, whole(0, index.type)});
            if (bound.nan || !(bound.high <= static_cast<double>(last))) {
                // an axis of whatever size has its last element within 64 bits
                const Type type = last < static_cast<int64_t>(kNarrow) ? index.type : Type::l;
                index = converted(index, type);
                index = run(numeric(Strip::min_i, type), type, {index, whole(std::max<int64_t>(last, 0), type)});
            }
            indices.push_back(index);
            cls = joined(cls, index.cls);
        }
        Address out;
        out.scalar = whole(0, Type::l);
        int64_t fixed = 0;
        bool small = true;
        double reach = 0;
        std::vector<std::pair<std::size_t, int64_t>> moving;
        for (std::size_t axis = 0; axis < indices.size(); ++axis) {
            const int64_t stride = dense ? dense_stride(table.sizes, axis) : table.strides[axis];
            if (stride == 0 || table.sizes[axis] <= 1) continue;
            const Value& index = indices[axis];
            if (index.constant >= 0) { fixed += whole_of(index) * stride; continue; }
            const bool one = index.cls == Class::uniform || (index.cls == Class::row && cls != Class::row);
            if (one) {
                Value step = converted(index, Type::l);
                if (stride != 1) step = run(Strip::mul_l, Type::l, {step, whole(stride, Type::l)});
                out.scalar = add_scalar(out.scalar, step);
            } else {
                moving.emplace_back(axis, stride);
                reach += static_cast<double>(std::abs(stride)) * static_cast<double>(table.sizes[axis]);
                small &= index.type == Type::i;
            }
        }
        if (fixed) out.scalar = add_scalar(out.scalar, whole(fixed, Type::l));
        small &= reach < kNarrow;
        if (moving.empty()) return out;
        if (fast_ && moving.size() == 1 && key_ >= 0) {
            const Node& leaf = parts_.nodes[node.indices[moving[0].first]];
            const Value& index = indices[moving[0].first];
            const bool beside = (leaf.op == Op::index || leaf.op == Op::position) && leaf.which == key_ && index.cls == Class::key &&
                                same(index, plain_[node.indices[moving[0].first]]);
            if (beside) {
                // the first key's index, as one number: the line starts there
                along_keys_ = true;
                out.line = true, out.step = moving[0].second;
                Value first = run_in(Class::uniform, leaf.op == Op::position ? Strip::position_l : Strip::index_l, Type::l, {}, leaf.which);
                first = run(Strip::mul_l, Type::l, {first, whole(out.step, Type::l)});
                out.scalar = add_scalar(out.scalar, first);
                return out;
            }
        }
        out.has_strip = true;
        const Type type = small ? Type::i : Type::l;
        bool begun = false;
        for (const auto& [axis, stride] : moving) {
            Value step = converted(indices[axis], type);
            if (stride != 1) step = run(numeric(Strip::mul_i, type), type, {step, whole(stride, type)});
            out.strip = begun ? run(numeric(Strip::add_i, type), type, {out.strip, step}) : step;
            begun = true;
        }
        return out;
    }

    Value add_scalar(Value a, Value b) {
        if (a.constant >= 0 && whole_of(a) == 0) return b;
        return run(Strip::add_l, Type::l, {a, b});
    }

    Strip load(Strip first, Elements elements, Type& type, bool small) const {
        switch (elements) {
            case Elements::boolean: type = Type::b; return first;
            case Elements::u8: case Elements::i8: case Elements::i16: {
                const int step = static_cast<int>(elements) - static_cast<int>(Elements::u8);
                type = Type::i;
                return at(first, 1 + step);
            }
            case Elements::i32: case Elements::i64: {
                const int step = static_cast<int>(elements) - static_cast<int>(Elements::u8);
                type = small ? Type::i : Type::l;
                return at(first, (small ? 1 : 6) + step);
            }
            default: {
                const int step = static_cast<int>(elements) - static_cast<int>(Elements::f32);
                type = real_;
                return at(first, (real_ == Type::f ? 11 : 15) + step);
            }
        }
    }

    Value look_up(int32_t n, bool along) {
        const Node& node = parts_.nodes[n];
        const Table& table = tables_[node.which].table;
        for (int64_t size : tables_[node.which].sizes) {
            if (size == 0) return node.kind == Kind::boolean ? truth(false) : node.kind == Kind::whole ? whole(0, type_of(n, along)) : fraction(0, real_);
        }
        const Address address = locate(node, along, false, Class::uniform);
        Type type;
        const Type wanted = type_of(n, along);
        const bool small = wanted == Type::i;
        Value out;
        if (address.line) {
            const Strip strip = load(Strip::line_boolean_b, table.elements, type, small);
            Class cls = joined(address.scalar.cls, Class::key);
            out = run_in(cls, strip, type, {whole(address.step, Type::l), address.scalar}, node.which);
        } else if (address.has_strip) {
            const Strip strip = load(address.strip.type == Type::i ? Strip::gather_i_boolean_b : Strip::gather_l_boolean_b, table.elements, type, small);
            out = run(strip, type, {address.strip, address.scalar}, node.which);
        } else {
            const Strip strip = load(Strip::gather_l_boolean_b, table.elements, type, small);
            out = run(strip, type, {address.scalar, whole(0, Type::l)}, node.which);
        }
        return converted(out, wanted);
    }

    // ---- where strips lie

    void drop_unused() {
        std::vector<bool> used(strips_);
        for (const Value& root : roots_) if (root.number >= 0) used[root.number] = true;
        std::vector<Made> rest;
        for (std::size_t n = list_.size(); n-- > 0;) {
            if (!used[list_[n].out.number]) continue;
            for (const Value& in : list_[n].in) if (in.number >= 0) used[in.number] = true;
            rest.push_back(list_[n]);
        }
        std::reverse(rest.begin(), rest.end());
        list_ = std::move(rest);
    }

    static int64_t room(Class cls) {
        switch (cls) {
            case Class::uniform: return 1;
            case Class::row: return kTileRows;
            case Class::diagonal: return kTileKeys + kTileSpread;
            default: return kTileKeys;
        }
    }

    void place(Program& out, BoundTerms& home) {
        std::stable_sort(list_.begin(), list_.end(), [](const Made& a, const Made& b) { return a.section < b.section; });
        struct Life { Class section = Class::uniform; int last = -1; bool kept = false; };
        std::vector<Life> lives(strips_);
        for (std::size_t n = 0; n < list_.size(); ++n) {
            lives[list_[n].out.number] = {list_[n].section, static_cast<int>(n), false};
            for (const Value& in : list_[n].in) {
                if (in.number < 0) continue;
                Life& life = lives[in.number];
                life.last = static_cast<int>(n);
                life.kept |= life.section != list_[n].section;
            }
        }
        for (const Value& root : roots_) if (root.number >= 0) lives[root.number].kept = true;
        offsets_.assign(strips_, 0);
        std::map<int64_t, std::vector<uint32_t>> free;
        uint64_t end = 0;
        for (std::size_t n = 0; n < list_.size(); ++n) {
            const Made& made = list_[n];
            for (int m = 0; m < 3; ++m) {
                const Value& in = made.in[m];
                bool again = false;
                for (int k = 0; k < m; ++k) again |= made.in[k].number == in.number;
                if (in.number < 0 || again || lives[in.number].kept || lives[in.number].last != static_cast<int>(n)) continue;
                free[width(in)].push_back(offsets_[in.number]);
            }
            auto& pool = free[width(made.out)];
            if (!pool.empty()) {
                offsets_[made.out.number] = pool.back();
                pool.pop_back();
            } else {
                offsets_[made.out.number] = static_cast<uint32_t>(end);
                end += static_cast<uint64_t>(width(made.out));
                if (end > (1u << 30)) throw GraphError("a program needs more than 1 GiB of memory for its strips");
            }
        }
        out.bytes = static_cast<uint32_t>(end);
        auto code = std::make_unique<std::vector<Instruction>>();
        code->reserve(list_.size());
        int counts[5] = {};
        for (const Made& made : list_) {
            ++counts[static_cast<int>(made.section)];
            Instruction instruction{made.strip, 0, {}, {}, made.which};
            const Reference to = reference(made.out);
            instruction.offsets[0] = to.offset;
            instruction.bases[0] = made.section == Class::full ? to.base : Base::memory;
            for (int m = 0; m < 3; ++m) {
                if (made.in[m].number < 0 && made.in[m].constant < 0 && made.in[m].cls != Class::full) continue;
                const Reference from = reference(made.in[m]);
                const bool constant = from.base == Base::constants;
                instruction.offsets[m + 1] = from.offset;
                instruction.bases[m + 1] = made.section == Class::full || constant ? from.base : Base::memory;
                const bool one = from.cls == Class::uniform || (from.cls == Class::row && made.section == Class::full);
                if (one && made.section != Class::uniform) instruction.shape |= static_cast<uint8_t>(1 << m);
            }
            code->push_back(instruction);
        }
        const Instruction* first = code->data();
        for (int section = 0; section < 5; ++section) {
            out.sections[section] = {first, counts[section]};
            first += counts[section];
        }
        home.instructions.push_back(std::move(code));
    }

    // Strips of one size are exchanged for one another; each begins on a cache line, and not all on the same one.
    static int64_t width(const Value& value) { return (room(value.cls) * bytes_of(value.type) + 63) / 64 * 64 + 64; }

    Reference reference(const Value& value) const {
        if (value.constant >= 0) return {static_cast<uint32_t>(value.constant) * 8, Base::constants, Class::uniform, value.type};
        if (value.number < 0) return {0, Base::score, Class::full, value.type};
        const bool eight = bytes_of(value.type) == 8;
        Base base = Base::memory;
        if (value.cls == Class::row) base = eight ? Base::row8 : Base::row4;
        if (value.cls == Class::diagonal) base = eight ? Base::diagonal8 : Base::diagonal4;
        return {offsets_[value.number], base, value.cls, value.type};
    }

    static constexpr int64_t kMostShift = 1 << 20;

    const Parts& parts_;
    const std::vector<Coordinate>& coordinates_;
    const std::vector<TableParts>& tables_;
    const std::vector<Interval>& bounds_;
    const std::vector<std::shared_ptr<const Ranges>>& ranges_;
    Type real_;
    bool fast_;
    int32_t query_ = -1, key_ = -1;
    bool along_keys_ = false, diagonals_used_ = false;
    std::vector<Reads> reads_;
    std::vector<uint8_t> needs_;  // 1: the value itself, 2: along diagonals
    std::vector<Value> plain_, diagonal_;
    std::vector<Made> list_;
    std::vector<Value> roots_;
    std::map<std::tuple<int, int, int, int, int, int, int, int>, Value> known_;
    std::map<std::pair<uint64_t, Type>, int32_t> numbers_;
    std::vector<uint64_t> constants_;
    std::vector<uint32_t> offsets_;
    int32_t strips_ = 0;
};

void check_call(const Parts& parts, const std::vector<Coordinate>& coordinates, const std::vector<TableParts>& tables) {
    if (static_cast<int64_t>(coordinates.size()) != parts.num_coordinates || static_cast<int64_t>(tables.size()) != parts.num_tables) {
        throw GraphError("a call binds " + std::to_string(coordinates.size()) + " coordinates and " + std::to_string(tables.size()) +
                         " tables; its graph has " + std::to_string(parts.num_coordinates) + " and " + std::to_string(parts.num_tables));
    }
    for (const Coordinate& coordinate : coordinates) {
        constexpr int64_t most = int64_t{1} << 48;
        if (coordinate.role > Role::key || coordinate.size < 1 || coordinate.size > most || coordinate.divisor < 1 ||
            coordinate.divisor > most || coordinate.size > most / coordinate.divisor || std::abs(coordinate.offset) > most) {
            throw GraphError("a coordinate's role, size, divisor or offset is out of range");
        }
    }
    for (const TableParts& table : tables) {
        if (table.sizes.size() != table.strides.size() || table.sizes.size() > static_cast<std::size_t>(kTableAxes) ||
            table.table.elements > Elements::f16) {
            throw GraphError("a table's sizes, strides or elements are out of range");
        }
        int64_t count = 1;
        for (int64_t size : table.sizes) {
            if (size < 0 || (size && count > (int64_t{1} << 48) / size)) throw GraphError("a table's sizes are out of range");
            count *= size;
        }
        if (count > 0 && !table.table.data) throw GraphError("a table has no data");
    }
    const auto kind_of = [](Elements elements) {
        return elements == Elements::boolean ? Kind::boolean : elements < Elements::f32 ? Kind::whole : Kind::real;
    };
    for (const Node& node : parts.nodes) {
        if (node.op != Op::lookup) continue;
        if (node.indices.size() != tables[node.which].sizes.size()) throw GraphError("a lookup has not one index for each axis of its table");
        if (node.kind != kind_of(tables[node.which].table.elements)) throw GraphError("a lookup has not the kind of its table");
    }
}

}  // namespace

std::unique_ptr<BoundTerms> Graph::bind(std::vector<Coordinate> coordinates, std::vector<TableParts> tables, bool wide) const {
    check_call(parts_, coordinates, tables);
    auto out = std::make_unique<BoundTerms>();
    const auto& nodes = parts_.nodes;
    std::vector<std::shared_ptr<const Ranges>> ranges(tables.size());
    std::vector<bool> tried(tables.size());
    std::vector<bool> everything(nodes.size(), true);
    for (const Node& node : nodes) {
        if (node.op != Op::lookup || node.kind == Kind::real || tried[node.which]) continue;
        tried[node.which] = true;
        ranges[node.which] = Ranges::learn(tables[node.which]);
    }
    if (parts_.keep >= 0) {  // floats of a mask are learnt too; a score's would be read for nothing
        std::vector<bool> masks(nodes.size());
        masks[parts_.keep] = true;
        for (int32_t n = parts_.keep; n >= 0; --n) {
            if (!masks[n]) continue;
            for (int32_t m : nodes[n].operands) if (m >= 0) masks[m] = true;
            for (int32_t m : nodes[n].indices) masks[m] = true;
            if (nodes[n].op == Op::lookup && !tried[nodes[n].which]) {
                tried[nodes[n].which] = true;
                ranges[nodes[n].which] = Ranges::learn(tables[nodes[n].which]);
            }
        }
    }
    const std::vector<Interval> bounds = call_bounds(parts_, everything, coordinates, tables, ranges);
    Terms& terms = out->terms;
    uint32_t bytes = 0;
    const auto both = [&](int32_t result, const std::vector<Parts::Guard>& guards, const std::vector<Parts::Gradient>& gradients,
                          Type wanted, bool doubles) {
        Pair pair{};
        for (bool fast : {true, false}) {
            Maker maker(parts_, coordinates, tables, bounds, ranges, doubles, fast);
            (fast ? pair.fast : pair.general) = maker.make(result, guards, gradients, wanted, *out);
        }
        const uint32_t most = std::max(pair.fast.bytes, pair.general.bytes);
        pair.memory = bytes;
        bytes += (most + 63) / 64 * 64;
        return pair;
    };
    const Type real = wide ? Type::d : Type::f;
    if (parts_.keep >= 0) terms.keep = both(parts_.keep, parts_.keep_guards, {}, Type::b, true);
    if (parts_.score >= 0) terms.score = both(parts_.score, parts_.score_guards, {}, real, wide);
    if (parts_.by_score >= 0) terms.backward = both(parts_.by_score, {}, parts_.gradients, real, wide);
    if (parts_.row >= 0) terms.row = both(parts_.row, parts_.row_guards, {}, Type::i, wide);
    if (parts_.keep >= 0) out->bounds = block_bounds(parts_, coordinates, tables, ranges);
    out->coordinates = std::move(coordinates);
    for (TableParts& table : tables) {
        int64_t count = 1;
        for (int64_t size : table.sizes) count *= size;
        table.table.count = count;
        out->tables.push_back(table.table);
    }
    terms.coordinates = out->coordinates.data(), terms.num_coordinates = static_cast<int32_t>(out->coordinates.size());
    terms.tables = out->tables.data(), terms.num_tables = static_cast<int32_t>(out->tables.size());
    terms.wide = wide;
    terms.bounds = out->bounds.get();
    terms.scratch_bytes = bytes + kWorkBytes;
    return out;
}

}  // namespace qkv
