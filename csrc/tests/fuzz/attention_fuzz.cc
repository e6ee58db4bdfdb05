// Attention calls as raw structs: any sizes, strides, elements and cuts, on every target, forward and backward.
//
// Tensors and scratch lie in memory of exactly their size, so that a sanitizer sees every stray access. Results are
// bit-equal for any number of threads and lie within first-order bounds of the definition in double (u is the unit
// roundoff of the working type: a product of d terms errs by d u, an exponential by its argument's error, sums of n
// weights by n u; weights that a target rounds to bfloat16 err by its unit roundoff). Dropped keys hold NaN in some
// cases, and no result may. Keys are read where strides say, and in some cases again from a ring, from pages, or as codes
// whose values are the same.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "attention.h"
#include "graph.h"
#include "input.h"
#include "pool.h"
#include "targets.h"

namespace {

using namespace qkv;
using test::Input;
using test::Numbers;
using std::int64_t;

constexpr double infinity = std::numeric_limits<double>::infinity();

std::size_t at(int64_t n) { return static_cast<std::size_t>(n); }

std::size_t size_of(Element element) { return element == Element::f64 ? 8 : element == Element::f32 ? 4 : 2; }
double roundoff(Element element) {
    return element == Element::f64 ? 0x1p-53 : element == Element::f32 ? 0x1p-24 : element == Element::bf16 ? 0x1p-8 : 0x1p-11;
}
double smallest(Element element) { return element == Element::f16 ? 0x1p-24 : 1e-37; }

double read(Element element, const void* from) {
    switch (element) {
        case Element::f64: { double x; std::memcpy(&x, from, 8); return x; }
        case Element::f32: { float x; std::memcpy(&x, from, 4); return static_cast<double>(x); }
        case Element::bf16: { BF16 x; std::memcpy(&x, from, 2); return static_cast<double>(widened(x)); }
        default: { F16 x; std::memcpy(&x, from, 2); return static_cast<double>(widened(x)); }
    }
}

void write(Element element, void* to, double value) {
    const auto x = static_cast<float>(value);
    switch (element) {
        case Element::f64: std::memcpy(to, &value, 8); return;
        case Element::f32: std::memcpy(to, &x, 4); return;
        case Element::bf16: { const BF16 y = narrowed<BF16>(x); std::memcpy(to, &y, 2); return; }
        default: { const F16 y = narrowed<F16>(x); std::memcpy(to, &y, 2); return; }
    }
}

int64_t offset_of(const Axes& axes, const int64_t* strides, int64_t flat) {
    int64_t offset = 0;
    for (int n = axes.count - 1; n >= 0; --n) {
        offset += flat % axes.size[n] * strides[n];
        flat /= axes.size[n];
    }
    return offset;
}

// A tensor in memory of its own, with its axes in any order and gaps between them.
class Tensor {
  public:
    Tensor(Input& in, Element element, const Axes& shared, const Axes& items, int64_t last, bool may_broadcast)
        : element_(element), shared_(shared), items_(items), last_(last) {
        struct Axis { int64_t size; int64_t* stride; bool is_shared; };
        std::vector<Axis> axes;
        for (int n = 0; n < shared.count; ++n) axes.push_back({shared.size[n], &view.shared[n], true});
        for (int n = 0; n < items.count; ++n) axes.push_back({items.size[n], &view.item[n], false});
        axes.push_back({last, &view.last, false});
        if (in.one_in(2)) std::rotate(axes.begin(), axes.begin() + in.range(0, static_cast<int64_t>(axes.size()) - 1), axes.end());
        int64_t extent = 1;
        for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
            *axis->stride = may_broadcast && axis->is_shared && in.one_in(4) ? 0 : extent * (in.one_in(6) ? 2 : 1);
            extent += std::max<int64_t>(axis->size - 1, 0) * *axis->stride;
        }
        const int64_t lead = in.range(0, 3);  // pointers that are aligned to an element, and no more
        count_ = extent + lead;
        memory_.reset(static_cast<char*>(std::malloc(at(count_) * size_of(element))));
        std::memset(memory_.get(), 0, at(count_) * size_of(element));
        view.data = memory_.get() + at(lead) * size_of(element);
    }

    void* place(int64_t shared, int64_t item, int64_t f) const {
        const int64_t offset = offset_of(shared_, view.shared, shared) + offset_of(items_, view.item, item) + f * view.last;
        return static_cast<char*>(view.data) + offset * static_cast<int64_t>(size_of(element_));
    }
    double get(int64_t shared, int64_t item, int64_t f) const { return read(element_, place(shared, item, f)); }
    void set(int64_t shared, int64_t item, int64_t f, double x) const { write(element_, place(shared, item, f), x); }
    template <class Value> void fill(const Value& value) const {
        for (int64_t s = 0; s < shared_.total(); ++s)
            for (int64_t n = 0; n < items_.total(); ++n)
                for (int64_t f = 0; f < last_; ++f) set(s, n, f, value(s, n, f));
    }
    std::vector<char> bytes() const { return {memory_.get(), memory_.get() + at(count_) * size_of(element_)}; }

    View view;

  private:
    struct Free { void operator()(char* p) const { std::free(p); } };
    Element element_;
    Axes shared_, items_;
    int64_t last_, count_ = 0;
    std::unique_ptr<char, Free> memory_;
};

// The same keys and values in a ring or in pages of their own, or as codes, or both; the last ones beside codes as floats,
// where their codes say something else.
class PlacedKeys {
  public:
    PlacedKeys(Input& in, const Problem& call, const Tensor& k, const Tensor& v)
        : shared_(call.shared), num_keys_(call.keys.total()), element_(call.key_element) {
        const bool narrow = call.element != Element::f64;
        if (narrow && in.one_in(2)) element_ = in.one_in(2) ? Element::code8 : Element::code4;
        else if (narrow && in.one_in(3)) element_ = Element::bf16;  // which holds what codes stand for
        const int64_t S = shared_.total(), first = shared_.size[0];
        lanes_ = S, slots_ = num_keys_;
        if (in.one_in(3)) {
            slots_ += in.range(0, 5);
            placed.ring_slots = slots_, placed.ring_start = in.range(0, slots_ - 1);
        } else if (in.one_in(2) || !is_code(element_)) {
            placed.page_slots = slots_ = in.one_in(2) ? int64_t{1} << in.range(0, 8) : in.range(1, 100), lanes_ = S / first;
            const int64_t each = (num_keys_ + slots_ - 1) / slots_;
            units_ = first * each + in.range(0, 2);
            for (int64_t n = 0; n < first * each; ++n) table_.push_back(static_cast<int32_t>((n * 7 + 3) % units_));
            if (units_ % 7 == 0) for (int64_t n = 0; n < first * each; ++n) table_[at(n)] = static_cast<int32_t>(units_ - 1 - n);
            table_memory_ = copy(table_.data(), table_.size() * sizeof(int32_t));
            placed.pages = reinterpret_cast<const int32_t*>(table_memory_.get());
            placed.page_shared[0] = each;
        }
        if (is_code(element_) && in.one_in(2)) {
            recent.slots = in.range(1, 70), recent.first = std::max<int64_t>(0, num_keys_ - in.range(0, recent.slots));
            recent.element = in.one_in(2) ? Element::f32 : in.one_in(2) ? Element::bf16 : Element::f16;
            k_recent_ = fill_recent(call.feature_size, k, recent.k), v_recent_ = fill_recent(call.value_size, v, recent.v);
        }
        k_ = fill(call.feature_size, k, call.k, kview, placed.k_scale, placed.k_page, placed.k_scale_page, k_scales_);
        v_ = fill(call.value_size, v, call.v, vview, placed.v_scale, placed.v_page, placed.v_scale_page, v_scales_);
    }

    void put(Problem& call) const {
        call.placed = placed, call.recent = recent, call.key_element = element_, call.k = kview, call.v = vview;
    }

  private:
    using Bytes = std::unique_ptr<char[]>;
    static Bytes copy(const void* from, std::size_t bytes) {
        Bytes out(new char[bytes]);
        std::memcpy(out.get(), from, bytes);
        return out;
    }
    int64_t unit_of(int64_t b, int64_t n) const {  // (unit * lanes + lane) * slots + slot
        int64_t unit = 0, slot = n;
        if (placed.pages) unit = table_[at(b / lanes_ * placed.page_shared[0] + n / slots_)], slot = n % slots_;
        else if (placed.ring_slots) slot = (placed.ring_start + n) % slots_;
        return (unit * lanes_ + (placed.pages ? b % lanes_ : b)) * slots_ + slot;
    }
    void steps(View& view, int64_t& page, int64_t row) const {
        view.item[0] = row, page = lanes_ * slots_ * row;
        int64_t step = slots_ * row;
        for (int n = shared_.count - 1; n >= 0; --n) {
            if (n == 0 && placed.pages) break;
            view.shared[n] = step, step *= shared_.size[n];
        }
    }
    Bytes fill_recent(int64_t size, const Tensor& from, View& view) const {
        const int64_t bytes = element_bytes(recent.element), items = shared_.total() * recent.slots;
        Bytes out(new char[at(items * size * bytes)]);
        for (int64_t n = 0; n < items * size; ++n) write(recent.element, out.get() + n * bytes, NAN);
        view.item[0] = size, view.last = 1, view.data = out.get();
        int64_t step = recent.slots * size;
        for (int n = shared_.count - 1; n >= 0; --n) view.shared[n] = step, step *= shared_.size[n];
        for (int64_t b = 0; b < shared_.total(); ++b)
            for (int64_t n = recent.first; n < num_keys_; ++n)
                for (int64_t f = 0; f < size; ++f)
                    write(recent.element, out.get() + ((b * recent.slots + n % recent.slots) * size + f) * bytes, from.get(b, n, f));
        return out;
    }
    Bytes fill(int64_t size, const Tensor& from, const View&, View& view, View& scale, int64_t& page, int64_t& scale_page, Bytes& scales) {
        const int64_t runs = (size + kCodeRun - 1) / kCodeRun;
        const int64_t row = element_ == Element::code4 ? runs * kCodeRun / 2 : size, bytes = element_bytes(element_);
        const int64_t items = units_ * lanes_ * slots_;
        Bytes out(new char[at(items * row * bytes)]());
        steps(view, page, row), view.last = 1, view.data = out.get();
        if (is_code(element_)) {
            scales.reset(new char[at(items) * sizeof(float)]());
            steps(scale, scale_page, 1), scale.data = scales.get();
        }
        for (int64_t b = 0; b < shared_.total(); ++b)
            for (int64_t n = 0; n < num_keys_; ++n) {
                const int64_t item = unit_of(b, n);
                char* to = out.get() + item * row * bytes;
                if (!is_code(element_)) {
                    for (int64_t f = 0; f < size; ++f) write(element_, to + f * bytes, from.get(b, n, f));
                    continue;
                }
                bool finite = !(recent.slots > 0 && n >= recent.first);
                for (int64_t f = 0; f < size; ++f) finite = finite && std::isfinite(from.get(b, n, f));
                const float by = finite ? kScale : NAN;
                std::memcpy(scales.get() + item * 4, &by, 4);
                for (int64_t f = 0; f < size; ++f) {
                    const int code = finite ? static_cast<int>(from.get(b, n, f) / static_cast<double>(kScale)) : 0;
                    if (element_ == Element::code8) to[f] = static_cast<char>(code);
                    else to[f / kCodeRun * 16 + f % 16] = static_cast<char>(to[f / kCodeRun * 16 + f % 16] | ((code + 8) << (f % kCodeRun < 16 ? 0 : 4)));
                }
            }
        return out;
    }

  public:
    static constexpr float kScale = 0.25f;  // values of codes are whole numbers of it, small enough for half bytes
    Placement placed;
    Recent recent;
    View kview, vview;

  private:
    Axes shared_;
    int64_t num_keys_, lanes_ = 1, slots_ = 1, units_ = 1;
    Element element_;
    std::vector<int32_t> table_;
    Bytes table_memory_, k_, v_, k_scales_, v_scales_, k_recent_, v_recent_;
};

Axes axes_of(Input& in, int most, int64_t largest, int64_t least) {
    Axes axes;
    axes.count = static_cast<int>(in.range(1, most));
    for (int n = 0; n < axes.count; ++n) axes.size[n] = in.range(least, n + 1 == axes.count ? largest : 3);
    return axes;
}

// Masks and a score function, bound twice: as the call has them, and for the definition in double.
struct BoundCase {
    std::unique_ptr<unsigned char[]> kept;  // by key
    std::unique_ptr<BoundTerms> bound, exact;
    double slope = 1;                       // d(score after)/d(score)
};

Node leaf(Op op, int which) {
    Node node{};
    node.op = op, node.kind = Kind::whole, node.which = which;
    return node;
}

Node operation(Op op, Kind kind, int a, int b) {
    Node node{};
    node.op = op, node.kind = kind, node.operands[0] = a, node.operands[1] = b;
    return node;
}

BoundCase make_terms(Input& in, const Problem& call) {
    BoundCase out;
    const int64_t rows = call.rows.size[call.rows.count - 1], keys = call.keys.size[call.keys.count - 1], all = call.keys.total();
    Parts parts;
    parts.num_coordinates = 3, parts.num_tables = 1;
    parts.nodes = {leaf(Op::position, 0), leaf(Op::position, 1), operation(Op::ge, Kind::boolean, 0, 1), leaf(Op::index, 2)};
    Node lookup{};
    lookup.op = Op::lookup, lookup.kind = Kind::boolean, lookup.which = 0, lookup.indices = {3};
    parts.nodes.push_back(lookup);                                                    // 4: table[key]
    parts.nodes.push_back(operation(Op::logical_and, Kind::boolean, 2, 4));           // 5
    Node constant{};
    constant.op = Op::constant, constant.kind = Kind::real, constant.real = 0.5;
    Node score{};
    score.op = Op::score, score.kind = Kind::real;
    parts.nodes.push_back(constant);                                                  // 6
    parts.nodes.push_back(score);                                                     // 7
    parts.nodes.push_back(operation(Op::sub, Kind::whole, 1, 0));                     // 8
    parts.nodes.push_back(operation(Op::mul, Kind::real, 6, 7));                      // 9
    Node slope = constant;
    slope.real = 0.03125;
    parts.nodes.push_back(slope);                                                     // 10
    parts.nodes.push_back(operation(Op::mul, Kind::real, 10, 8));                     // 11
    parts.nodes.push_back(operation(Op::add, Kind::real, 9, 11));                     // 12
    const auto whole = [&](int64_t value) {
        Node node{};
        node.op = Op::constant, node.kind = Kind::whole, node.whole = value;
        parts.nodes.push_back(node);
    };
    whole(64), whole(2), whole(0);                                                    // 13, 14, 15
    parts.nodes.push_back(operation(Op::floordiv, Kind::whole, 0, 13));               // 16
    parts.nodes.push_back(operation(Op::floordiv, Kind::whole, 1, 13));               // 17
    parts.nodes.push_back(operation(Op::add, Kind::whole, 16, 17));                   // 18
    parts.nodes.push_back(operation(Op::mod, Kind::whole, 18, 14));                   // 19
    parts.nodes.push_back(operation(Op::eq, Kind::boolean, 19, 15));                  // 20: blocks of 64, every other one
    const int masks[] = {-1, 2, 4, 5, 20};
    parts.keep = masks[in.range(0, 4)];
    if (in.one_in(2)) parts.score = 12, parts.by_score = 6, out.slope = 0.5;
    // often so that a group of rows stands astride an edge of blocks
    int64_t first = keys > 256 && in.one_in(2) ? 256 - in.range(0, rows) : in.range(-4, keys);
    if (parts.keep == 20 && !in.one_in(3)) first = 64 * in.range(0, 2);  // edges are where runs of rows meet
    const std::vector<Coordinate> coordinates{{Role::row, rows, 1, first}, {Role::key, keys, 1, 0}, {Role::key, all, 1, 0}};
    out.kept.reset(new unsigned char[at(std::max<int64_t>(all, 1))]);
    const bool in_runs = in.one_in(2);
    for (int64_t n = 0; n < all;) {
        const int64_t end = std::min(all, n + (in_runs ? in.range(1, 100) : 1));
        for (const bool kept = !in.one_in(3); n < end; ++n) out.kept[at(n)] = kept;
    }
    const std::vector<TableParts> tables{{{out.kept.get(), Elements::boolean, 0}, {all}, {1}, in.one_in(2)}};
    const Graph graph(parts);
    out.bound = graph.bind(coordinates, tables, call.element == Element::f64);
    out.exact = graph.bind(coordinates, tables, true);
    return out;
}

struct FreeAligned {
    void operator()(char* p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, FreeAligned>;

Memory memory_of(std::size_t bytes) { return Memory(static_cast<char*>(std::malloc(std::max<std::size_t>(bytes, 1)))); }

void run(const Target& target, const Forward& call, int num_threads) {
    const Schedule how = target.forward_schedule(call, num_threads);
    std::vector<Memory> scratch;
    for (int n = 0; n < num_threads; ++n) scratch.push_back(memory_of(how.scratch_bytes));
    const Memory partials = memory_of(how.partial_bytes);
    parallel(num_threads, how.num_tasks, [&](int64_t task, int worker) {
        target.forward_task(call, how, task, scratch[static_cast<std::size_t>(worker)].get(), partials.get());
    });
    if (how.num_splits == 1) return;
    parallel(num_threads, how.num_tasks / how.num_splits, [&](int64_t task, int worker) {
        target.forward_merge(call, how, task, scratch[static_cast<std::size_t>(worker)].get(), partials.get());
    });
}

void run(const Target& target, const Backward& call, int num_threads) {
    const BackwardSchedule how = target.backward_schedule(call);
    std::vector<Memory> scratch;
    for (int n = 0; n < num_threads; ++n) scratch.push_back(memory_of(how.scratch_bytes));
    const Memory partials = memory_of(how.partial_bytes);
    parallel(num_threads, how.num_slots, [&](int64_t slot, int worker) {
        target.backward_slot(call, how, slot, scratch[static_cast<std::size_t>(worker)].get(), partials.get(), call.table_grads);
    });
    if (how.num_parts == 1) return;
    parallel(num_threads, how.num_shared, [&](int64_t shared, int) { target.backward_merge(call, how, shared, partials.get()); });
}

// Runs the call with one thread and with several, and says that the outputs have the same bits.
template <class Call>
void run_both(const Target& target, const Call& call, const std::vector<const Tensor*>& outputs) {
    run(target, call, 1);
    std::vector<std::vector<char>> alone;
    for (const Tensor* tensor : outputs) alone.push_back(tensor->bytes());
    run(target, call, 3);
    for (std::size_t n = 0; n < outputs.size(); ++n) DEMAND(outputs[n]->bytes() == alone[n]);
}

void near(double found, double wanted, double bound) {
    if (std::abs(found - wanted) <= bound || found == wanted) return;
    std::fprintf(stderr, "%.9g found, %.9g wanted, bound %.3g\n", found, wanted, bound);
    DEMAND(!"within its bound");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input in(data, size);
    Numbers numbers(in.word());
    Forward call;
    call.element = static_cast<Element>(in.range(0, 3));
    const Element working = call.element == Element::f64 ? Element::f64 : Element::f32;
    const Element written = in.one_in(4) ? working : call.element;
    call.key_element = call.element, call.out_element = written;
    call.shared = axes_of(in, 2, 3, 1);
    call.rows = axes_of(in, 2, in.one_in(4) ? 130 : 20, 1);
    call.keys = axes_of(in, 2, in.one_in(3) ? 300 : 40, in.one_in(10) ? 0 : 1);
    bool shrinks = true;
    switch (in.range(0, 11)) {  // so many keys, or rows, that the work of one problem is cut
        case 0: call.keys.size[0] = in.range(2048, 2600), call.keys.count = 1; break;
        case 1: call.rows.size[0] = in.range(390, 800), call.rows.count = 1, call.keys.size[0] = in.range(1, 9), call.keys.count = 1; break;
        case 2:  // rows of more than one tile that go from block to block
            call.rows.size[0] = in.range(9, 40), call.rows.count = 1, call.keys.size[0] = in.range(257, 600), call.keys.count = 1;
            call.shared.count = 1, call.shared.size[0] = 1;
            break;
        case 3:  // groups of rows that share what the mask says of a block
            call.rows.size[0] = in.range(65, 140), call.rows.count = 1, call.keys.size[0] = in.range(40, 300), call.keys.count = 1;
            call.shared.count = 1, call.shared.size[0] = 1;
            shrinks = false;
            break;
        default: break;
    }
    for (int64_t* run : {&call.rows.size[call.rows.count - 1], &call.shared.size[call.shared.count - 1]}) {
        while (shrinks && *run > 1 && call.shared.total() * call.rows.total() * call.keys.total() > 8000 && *run < 390) *run = (*run + 1) / 2;
    }
    call.feature_size = in.range(1, in.one_in(3) ? 70 : 20), call.value_size = in.range(1, in.one_in(3) ? 70 : 20);
    call.scale = static_cast<double>(in.range(-4, 8)) / 8;
    if (in.one_in(5)) call.weighing = Weighing::sigmoid, call.bias = static_cast<double>(in.range(-8, 8)) / 4;
    const bool softmax = call.weighing == Weighing::softmax;
    const int64_t S = call.shared.total(), R = call.rows.total(), K = call.keys.total(), D = call.feature_size, E = call.value_size;
    const Tensor q(in, call.element, call.shared, call.rows, D, true), k(in, call.element, call.shared, call.keys, D, true);
    const Tensor v(in, call.element, call.shared, call.keys, E, true), sink(in, working, call.shared, call.rows, 1, true);
    const auto draw = [&](int64_t, int64_t, int64_t) { return numbers.real(); };
    q.fill(draw), k.fill(draw), v.fill(draw), sink.fill(draw);
    const bool placed = call.keys.count == 1 && K > 0 && in.one_in(2);
    if (placed) {
        const auto code = [&](int64_t, int64_t, int64_t) {
            return PlacedKeys::kScale * static_cast<float>(std::clamp(static_cast<int>(numbers.real() * 4), -7, 7));
        };
        k.fill(code), v.fill(code);
    }
    if (!placed && call.element == Element::bf16 && in.one_in(3)) {
        // Subnormal numbers beside large ones, which some products take for 0; and a feature of very small values.
        const int64_t faint = in.range(0, 3), every = in.range(1, 3);
        const auto beside = [&](const Tensor& large, int64_t count, const Tensor& small, int64_t other) {
            for (int64_t b = 0; b < S; ++b) {
                for (int64_t n = 0; n < count; ++n) large.set(b, n, 0, n % every ? 0.0 : std::ldexp(numbers.real(), 121));
                for (int64_t n = 0; n < other; ++n) small.set(b, n, 0, n % every ? 0.0 : std::ldexp(numbers.real(), -129));
            }
        };
        if (faint == 0) beside(q, R, k, K);
        if (faint == 1) beside(k, K, q, R);
        if (faint > 1)
            for (int64_t b = 0; b < S; ++b)
                for (int64_t n = 0; n < K; ++n) v.set(b, n, 0, std::ldexp(numbers.real(), faint == 2 ? -129 : -115));
    }
    BoundCase terms;  // terms are bound to coordinates that have a size
    if (K > 0 && in.one_in(2)) {
        terms = make_terms(in, call);
        call.terms = &terms.bound->terms;
        call.masked = call.terms->masks(), call.scored = call.terms->changes();
    }
    const bool spoiled = call.masked && in.one_in(2);
    call.q = q.view, call.k = k.view, call.v = v.view;
    if (softmax && in.one_in(4)) call.sink = sink.view;

    // The definition, on the elements as they are stored.
    std::vector<double> s(at(S * R * K), 0.0), size_qk(at(S * R), 0.0);
    for (int64_t b = 0; b < S; ++b) {
        for (int64_t r = 0; r < R; ++r)
            for (int64_t n = 0; n < K; ++n) {
                double product = 0, sizes = 0;
                for (int64_t f = 0; f < D; ++f) product += q.get(b, r, f) * k.get(b, n, f), sizes += std::abs(q.get(b, r, f) * k.get(b, n, f));
                s[at((b * R + r) * K + n)] = product * call.scale;
                size_qk[at(b * R + r)] = std::max(size_qk[at(b * R + r)], sizes * std::abs(call.scale));
            }
        if (call.terms && K > 0) {
            const Terms& exact = terms.exact->terms;
            const Memory memory(static_cast<char*>(std::aligned_alloc(64, (exact.scratch_bytes + 127) / 64 * 64)));
            Scratch scratch{memory.get()};
            usable_targets(target_rows(), cpu_features()).back()->table->terms_d(exact, {b, 0, R, 0, K}, &s[at(b * R * K)], K, call.masked, scratch);
        }
    }
    if (spoiled) {
        // A key that nobody keeps may hold anything.
        for (int64_t n = 0; n < K; ++n) {
            bool kept = false;
            for (int64_t m = 0; m < S * R; ++m) kept = kept || s[at(m * K + n)] != -infinity;
            if (kept) continue;
            for (int64_t b = 0; b < S; ++b) {
                for (int64_t f = 0; f < D; ++f) k.set(b, n, f, NAN);
                for (int64_t f = 0; f < E; ++f) v.set(b, n, f, infinity);
            }
        }
    }
    std::vector<double> p(at(S * R * K), 0.0), lse(at(S * R)), error(at(S * R)), best(at(S * R), -infinity), spread(at(S * R), 0.0);
    const double u = roundoff(working);
    for (int64_t m = 0; m < S * R; ++m) {
        const double own_sink = call.sink.data ? sink.get(m / R, m % R, 0) : -infinity;
        double level = own_sink, largest = 0, total = 0;
        bool dead = true;  // keeps no key: its lse is -inf, with a sink too
        for (int64_t n = 0; n < K; ++n) {
            level = std::max(level, s[at(m * K + n)]);
            if (s[at(m * K + n)] == -infinity) continue;
            largest = std::max(largest, std::abs(s[at(m * K + n)])), dead = false;
        }
        if (level != -infinity) total = own_sink == -infinity ? 0 : std::exp(own_sink - level);
        for (int64_t n = 0; n < K; ++n) {
            double& weight = p[at(m * K + n)];
            const double x = s[at(m * K + n)];
            weight = x == -infinity ? 0 : softmax ? std::exp(x - level) : 1 / (1 + std::exp(-x - call.bias));
            total += weight;
        }
        lse[at(m)] = dead ? -infinity : level + std::log(total);
        if (softmax && total > 0) for (int64_t n = 0; n < K; ++n) p[at(m * K + n)] /= total;
        for (int64_t n = 0; n < K; ++n) {
            const double weight = p[at(m * K + n)];
            best[at(m)] = std::max(best[at(m)], s[at(m * K + n)]);
            if (weight > 0) spread[at(m)] -= weight * std::log(weight);
        }
        error[at(m)] = 4 * u * (static_cast<double>(D + 8) * (size_qk[at(m)] + 1) + static_cast<double>(K) + 4 * largest + 32);
    }
    const auto value = [&](int64_t b, int64_t n, int64_t f) { const double x = v.get(b, n, f); return std::isfinite(x) ? x : 0.0; };
    const auto key = [&](int64_t b, int64_t n, int64_t f) { const double x = k.get(b, n, f); return std::isfinite(x) ? x : 0.0; };

    const Tensor out(in, written, call.shared, call.rows, E, false), lse_out(in, working, call.shared, call.rows, 1, false);
    const Tensor level_out(in, working, call.shared, call.rows, 1, false), entropy_out(in, working, call.shared, call.rows, 1, false);
    call.out = out.view;
    if (softmax) call.lse = lse_out.view;
    if (in.one_in(3)) call.level = level_out.view;
    if (softmax && in.one_in(3)) call.entropy = entropy_out.view;
    if (in.one_in(5)) call.dropout = 0.25, call.seed = in.word();
    for (int64_t step = 1, n = call.rows.count; n-- > 0;) call.pair_row[n] = step, step *= call.rows.size[n];

    // The backward, of the same call.
    Backward back;
    static_cast<Problem&>(back) = call;
    back.grad_element = written;
    const Tensor grad(in, written, call.shared, call.rows, E, true), lse_in(in, working, call.shared, call.rows, 1, false);
    const Tensor delta(in, working, call.shared, call.rows, 1, false), dq(in, call.element, call.shared, call.rows, D, false);
    const Tensor dk(in, call.element, call.shared, call.keys, D, false), dv(in, call.element, call.shared, call.keys, E, false);
    grad.fill(draw);
    std::vector<double> slopes(at(S * R * K)), slope_sizes(at(S * R * K));
    for (int64_t m = 0; m < S * R; ++m) {
        const int64_t b = m / R, r = m % R;
        double mean = 0, sizes = 0;
        std::vector<double> products(at(K), 0.0), product_sizes(at(K), 0.0);
        for (int64_t n = 0; n < K; ++n) {
            for (int64_t f = 0; f < E; ++f) {
                products[at(n)] += grad.get(b, r, f) * value(b, n, f);
                product_sizes[at(n)] += std::abs(grad.get(b, r, f) * value(b, n, f));
            }
            mean += p[at(m * K + n)] * products[at(n)], sizes += p[at(m * K + n)] * product_sizes[at(n)];
        }
        for (int64_t n = 0; n < K; ++n) {
            const double weight = p[at(m * K + n)];
            slopes[at(m * K + n)] = softmax ? weight * (products[at(n)] - mean) : weight * (1 - weight) * products[at(n)];
            slope_sizes[at(m * K + n)] = weight * (product_sizes[at(n)] + (softmax ? sizes : 0));
        }
        lse_in.set(b, r, 0, lse[at(m)]), delta.set(b, r, 0, softmax ? mean : 0);
    }
    back.grad = grad.view, back.dq = dq.view, back.dk = dk.view, back.dv = dv.view;
    if (softmax) back.lse = lse_in.view, back.delta = delta.view;

    const double rounding = roundoff(call.element), least = smallest(call.element);
    Forward elsewhere = call;
    std::unique_ptr<PlacedKeys> keys_elsewhere;
    if (placed) keys_elsewhere = std::make_unique<PlacedKeys>(in, call, k, v), keys_elsewhere->put(elsewhere);
    for (const TargetRow* row : usable_targets(target_rows(), cpu_features())) {
        run_both(*row->table, call, {&out, &lse_out, &level_out, &entropy_out});
        run_both(*row->table, back, {&dq, &dk, &dv});
        const double weights = row->table->rounds_weights && call.element == Element::bf16 && written == Element::bf16 ? rounding : 0;
        if (call.dropout > 0) continue;  // which pairs are dropped is compared with the other strategies, in Python
        const auto check_rows = [&] {
            for (int64_t m = 0; m < S * R; ++m) {
                const int64_t b = m / R, r = m % R;
                for (int64_t f = 0; f < E; ++f) {
                    double wanted = 0, sizes = 0;
                    for (int64_t n = 0; n < K; ++n) wanted += p[at(m * K + n)] * value(b, n, f), sizes += p[at(m * K + n)] * std::abs(value(b, n, f));
                    near(out.get(b, r, f), wanted, (2 * error[at(m)] + weights) * sizes + rounding * std::abs(wanted) + least);
                }
                if (softmax) near(lse_out.get(b, r, 0), lse[at(m)], error[at(m)] + 4 * u * std::abs(lse[at(m)]));
                if (call.level.data) near(level_out.get(b, r, 0), best[at(m)], error[at(m)]);
                // d(-p log p) = -(1 + log p) dp, where dp is p times twice an error; a weight that became 0 had less than 1e-30
                if (call.entropy.data) near(entropy_out.get(b, r, 0), spread[at(m)], 4 * error[at(m)] * (1 + spread[at(m)]) + 1e-28);
            }
        };
        check_rows();
        if (placed) {
            run_both(*row->table, elsewhere, {&out, &lse_out, &level_out, &entropy_out});
            check_rows();
        }
        for (int64_t m = 0; m < S * R; ++m) {
            const int64_t b = m / R, r = m % R;
            for (int64_t f = 0; f < D; ++f) {
                double wanted = 0, sizes = 0;
                for (int64_t n = 0; n < K; ++n) {
                    const double x = call.scale * terms.slope * key(b, n, f);
                    wanted += slopes[at(m * K + n)] * x, sizes += slope_sizes[at(m * K + n)] * std::abs(x);
                }
                near(dq.get(b, r, f), wanted, 4 * error[at(m)] * sizes + static_cast<double>(E + K) * u * sizes + rounding * std::abs(wanted) + least);
            }
        }
        for (int64_t b = 0; b < S; ++b)
            for (int64_t n = 0; n < K; ++n) {
                for (int64_t f = 0; f < E; ++f) {
                    double wanted = 0, bound = least;
                    for (int64_t m = b * R; m < (b + 1) * R; ++m) {
                        const double part = p[at(m * K + n)] * grad.get(b, m - b * R, f);
                        wanted += part, bound += (4 * error[at(m)] + static_cast<double>(R) * u) * std::abs(part);
                    }
                    near(dv.get(b, n, f), wanted, bound + rounding * std::abs(wanted));
                }
                for (int64_t f = 0; f < D; ++f) {
                    double wanted = 0, bound = least;
                    for (int64_t m = b * R; m < (b + 1) * R; ++m) {
                        const double x = call.scale * terms.slope * q.get(b, m - b * R, f);
                        wanted += slopes[at(m * K + n)] * x;
                        bound += (4 * error[at(m)] + static_cast<double>(E + R) * u) * slope_sizes[at(m * K + n)] * std::abs(x);
                    }
                    near(dk.get(b, n, f), wanted, bound + rounding * std::abs(wanted));
                }
            }
    }
    return 0;
}
