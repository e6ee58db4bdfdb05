// The door for attention calls: sizes and strides are checked once, addresses arrive as whole numbers, and tasks go to the pool.
//
// An object stands for one signature: sizes, strides, element type, weighing. Running it takes addresses and what changes
// from call to call. The lock of the interpreter is released while kernels run. Refuses to know what a kernel does.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "attention.h"
#include "pool.h"
#include "targets.h"

namespace nb = nanobind;

const qkv::Terms* terms_of(nb::handle object);

namespace {

using Sizes = std::vector<int64_t>;
using Strides = std::tuple<Sizes, Sizes, int64_t>;  // along shared axes, along items (rows or keys), along the last axis
using Address = std::uintptr_t;

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kKeptBytes = std::size_t{32} << 20;  // of scratch that a thread keeps between calls
constexpr double kSmallWork = 1 << 18;                     // multiply-adds that are not worth waking a thread for
constexpr __int128 kMostElements = __int128{1} << 60;

// A call that does not fit its contract: a mistake of the caller in this package, not of the package's user.
class CallError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct Free {
    void operator()(char* at) const { std::free(at); }
};

// Memory that grows and stays, up to a limit; what it holds is lost when it grows.
class Memory {
  public:
    void* at_least(std::size_t bytes) {
        if (bytes > size_) {
            const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
            block_.reset();
            size_ = 0;
            block_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, rounded)));
            if (!block_) throw std::bad_alloc();
            size_ = rounded;
        }
        return block_.get();
    }
    void give_back() {
        if (size_ <= kKeptBytes) return;
        block_.reset();
        size_ = 0;
    }

  private:
    std::unique_ptr<char, Free> block_;
    std::size_t size_ = 0;
};

thread_local Memory scratch_memory;   // of the tasks that this thread runs
thread_local Memory partial_memory;   // of the calls that this thread makes

int64_t checked_total(const char* what, const Sizes& sizes) {
    if (sizes.size() > static_cast<std::size_t>(qkv::kMaxAxes)) {
        throw CallError(std::string("an attention call has more than ") + std::to_string(qkv::kMaxAxes) + " axes of " + what);
    }
    __int128 total = 1;
    bool empty = false;
    for (int64_t size : sizes) {
        if (size < 0) throw CallError(std::string("an axis of ") + what + " has a size below 0");
        if (size == 0) empty = true;
        else if ((total *= size) > kMostElements) throw CallError(std::string("the sizes of ") + what + " overflow");
    }
    return empty ? 0 : static_cast<int64_t>(total);
}

qkv::Axes axes_of(const char* what, const Sizes& sizes) {
    checked_total(what, sizes);
    qkv::Axes axes;
    axes.count = static_cast<int>(sizes.size());
    for (int n = 0; n < axes.count; ++n) axes.size[n] = sizes[n];
    return axes;
}

// Fills the strides of a view and checks that no element of it is further away than addresses reach; `pages` lie a step apart.
void place(const std::string& name, const Strides& strides, const qkv::Axes& shared, const qkv::Axes& items, int64_t last_size,
           qkv::View& view, int64_t num_pages = 1, int64_t page_step = 0) {
    const auto& [along_shared, along_items, last] = strides;
    if (static_cast<int>(along_shared.size()) != shared.count || static_cast<int>(along_items.size()) != items.count) {
        throw CallError("the strides of " + name + " are not as many as its axes");
    }
    __int128 furthest = 0;
    const auto reach = [&](int64_t size, int64_t stride) {
        if (stride < 0) throw CallError("a stride of " + name + " is below 0");
        if (size > 1) furthest += static_cast<__int128>(size - 1) * stride;
        if (furthest > kMostElements) throw CallError("the strides of " + name + " overflow");
    };
    for (int n = 0; n < shared.count; ++n) reach(shared.size[n], view.shared[n] = along_shared[n]);
    for (int n = 0; n < items.count; ++n) reach(items.size[n], view.item[n] = along_items[n]);
    reach(last_size, view.last = last);
    reach(num_pages, page_step);
}

// What a caller says of where keys lie: names and whole numbers.
using Placing = std::map<std::string, Sizes>;

int64_t placed_number(const Placing& placing, const char* name, int64_t otherwise) {
    const auto at = placing.find(name);
    if (at == placing.end()) return otherwise;
    if (at->second.size() != 1) throw CallError(std::string("the place of keys has not one number for ") + name);
    return at->second[0];
}

void* pointer(Address address) { return reinterpret_cast<void*>(address); }

class Attention {
  public:
    Attention(int element, const Sizes& shared, const Sizes& rows, const Sizes& keys, int64_t feature_size, int64_t value_size,
              double scale, int weighing, double bias, int64_t terms_shared, const Sizes& pair_row, int64_t num_buckets,
              const std::map<std::string, Strides>& views, int key_element, int out_element, int grad_element, const Placing& placing) {
        if (element < 0 || element > static_cast<int>(qkv::Element::f16)) throw CallError("an attention call has elements of no known type");
        if (weighing < 0 || weighing > static_cast<int>(qkv::Weighing::sigmoid)) throw CallError("an attention call has an unknown weighing");
        qkv::Problem& call = problem_;
        call.element = static_cast<qkv::Element>(element);
        if (key_element > static_cast<int>(qkv::Element::code4)) throw CallError("an attention call has keys of no known type");
        call.key_element = key_element < 0 ? call.element : static_cast<qkv::Element>(key_element);
        const bool codes = qkv::is_code(call.key_element);
        if ((call.element == qkv::Element::f64) != (call.key_element == qkv::Element::f64)) {
            throw CallError("an attention call has keys of a type that its queries do not meet");
        }
        out_element_ = row_element(out_element), grad_element_ = row_element(grad_element);
        call.shared = axes_of("the shared coordinates", shared);
        call.rows = axes_of("the rows", rows);
        call.keys = axes_of("the keys", keys);
        const Sizes sides = {checked_total("the shared coordinates", shared), checked_total("the rows", rows), checked_total("the keys", keys)};
        checked_total("the scores", sides);
        checked_total("q", {sides[0], sides[1], feature_size});
        checked_total("v", {sides[0], sides[2], value_size});
        call.feature_size = feature_size, call.value_size = value_size;
        call.scale = scale;
        call.weighing = static_cast<qkv::Weighing>(weighing);
        call.bias = bias;
        if (terms_shared < 0 || (terms_shared > 0 && sides[0] % terms_shared != 0)) throw CallError("the terms' shared elements do not divide the call's");
        call.terms_shared = terms_shared;
        if (pair_row.size() != rows.size()) throw CallError("the steps of rows are not as many as their axes");
        for (std::size_t n = 0; n < pair_row.size(); ++n) call.pair_row[n] = pair_row[n];
        checked_total("the value table", {sides[0], sides[1], num_buckets});
        call.num_buckets = num_buckets;
        place_keys(placing);
        for (const auto& [name, strides] : views) take(name, strides);
        if (codes && !(views.contains("k_scale") && views.contains("v_scale"))) {
            throw CallError("an attention call with codes has no strides of their scales");
        }
        if (call.recent.slots > 0 && !(views.contains("k_recent") && views.contains("v_recent"))) {
            throw CallError("an attention call with recent keys has no strides of them");
        }
        for (const char* name : {"q", "k", "v"}) {
            if (!views.contains(name)) throw CallError(std::string("an attention call has no strides of ") + name);
        }
        work_ = static_cast<double>(sides[0]) * static_cast<double>(sides[1]) * static_cast<double>(sides[2]) *
                static_cast<double>(feature_size + value_size);
    }

    // The lookup that left its table at a pair that counts, or -1. `num_keys`: how many of the keys there are this time, all
    // where it is below 0.
    int forward(Address q, Address k, Address v, Address out, Address sink, Address lse, Address level, Address entropy,
                Address argmax, Address buckets, nb::handle terms, double dropout, uint64_t seed, int num_threads, Address k_scale,
                Address v_scale, Address pages, int64_t ring_start, int64_t num_keys, Address k_recent, Address v_recent,
                int64_t recent_first) const {
        qkv::Forward call{};
        static_cast<qkv::Problem&>(call) = problem_;
        call.out_element = out_element_;
        start(call, q, k, v, terms, dropout, seed);
        find_keys(call, k_scale, v_scale, pages, ring_start, num_keys);
        find_recent(call, k_recent, v_recent, recent_first);
        if (out == 0 && call.value_size > 0 && call.shared.total() * call.rows.total() > 0) throw CallError("an attention call has no output");
        put(call.out, out_, out, "out"), put(call.sink, sink_, sink, "sink"), put(call.lse, lse_, lse, "lse");
        put(call.level, lse_, level, "level"), put(call.entropy, lse_, entropy, "entropy"), put(call.argmax, lse_, argmax, "argmax");
        put(call.buckets, buckets_, buckets, "buckets");
        if (call.num_buckets > 0 && buckets == 0) throw CallError("an attention call with a value table has no place for its sums");
        const qkv::Target& target = qkv::target();
        const nb::gil_scoped_release released;
        return run_forward(call, target, threads(num_threads));
    }

    // The same for a call that wants its output alone and whose terms check no lookup.
    void run(Address q, Address k, Address v, Address out, nb::handle terms, int num_threads) const {
        qkv::Forward call{};
        static_cast<qkv::Problem&>(call) = problem_;
        call.out_element = out_element_;
        start(call, q, k, v, terms, 0.0, 0);
        find_keys(call, 0, 0, 0, 0, -1);
        find_recent(call, 0, 0, 0);
        put(call.out, out_, out, "out");
        if (call.num_buckets > 0) throw CallError("an attention call with a value table has no place for its sums");
        const qkv::Target& target = qkv::target();
        if (work_ < kSmallWork) {  // over before another thread would have the lock
            run_forward(call, target, 1);
            return;
        }
        const nb::gil_scoped_release released;
        run_forward(call, target, threads(num_threads));
    }

    int backward(Address q, Address k, Address v, Address grad, Address lse, Address delta, Address bucket_grad, Address dq,
                 Address dk, Address dv, const std::vector<Address>& table_grads, const Sizes& table_sizes, bool tables_apart,
                 nb::handle terms, double dropout, uint64_t seed, int num_threads) const {
        qkv::Backward call{};
        static_cast<qkv::Problem&>(call) = problem_;
        call.grad_element = grad_element_;
        if (!call.placed.is_plain() || num_pages_ > 0 || call.key_element != call.element) {
            throw CallError("a backward's keys are in a ring, in pages or of another type than its queries");
        }
        start(call, q, k, v, terms, dropout, seed);
        put(call.grad, grad_, grad, "grad"), put(call.lse, lse_, lse, "lse"), put(call.delta, lse_, delta, "delta");
        put(call.bucket_grad, buckets_, bucket_grad, "bucket_grad");
        put(call.dq, dq_, dq, "dq"), put(call.dk, dk_, dk, "dk"), put(call.dv, dv_, dv, "dv");
        if (call.num_buckets > 0 && bucket_grad == 0) throw CallError("a backward with a value table has no gradient of its sums");
        if (table_grads.size() != table_sizes.size() || table_grads.size() > static_cast<std::size_t>(qkv::kMostTables) ||
            (call.terms != nullptr && call.scored && table_grads.size() != static_cast<std::size_t>(call.terms->num_tables))) {
            throw CallError("a backward has not one gradient for each table");
        }
        std::vector<void*> grads;
        for (Address at : table_grads) grads.push_back(pointer(at));
        for (int64_t size : table_sizes) checked_total("a table", {size});
        call.table_grads = grads.data(), call.table_sizes = table_sizes.data();
        call.num_tables = static_cast<int>(grads.size());
        call.tables_apart = tables_apart;
        const qkv::Target& target = qkv::target();
        const nb::gil_scoped_release released;
        return call.element == qkv::Element::f64 ? run_backward<double>(call, target, threads(num_threads))
                                                 : run_backward<float>(call, target, threads(num_threads));
    }

  private:
    using View = std::optional<qkv::View>;

    static void put(qkv::View& to, const View& view, Address at, const char* name) {
        if (at == 0) return;
        if (!view) throw CallError(std::string("an attention call was made without strides of ") + name);
        to = *view, to.data = pointer(at);
    }

    void take(const std::string& name, const Strides& strides) {
        qkv::Problem& call = problem_;
        const auto fill = [&](View& to, const qkv::Axes& items, int64_t last) {
            qkv::View view;
            place(name, strides, call.shared, items, last, view);
            to = view;
        };
        const auto key = [&](qkv::View& view, int64_t size, int64_t page_step) {
            if (call.key_element == qkv::Element::code4) {
                size = (size + qkv::kCodeRun - 1) / qkv::kCodeRun * (qkv::kCodeRun / 2);
                if (std::get<2>(strides) != 1) throw CallError("half bytes lie apart in " + name);
            }
            place(name, strides, call.shared, slots_, size, view, std::max<int64_t>(num_pages_, 1), page_step);
        };
        if (name == "q") place(name, strides, call.shared, call.rows, call.feature_size, call.q);
        else if (name == "k") key(call.k, call.feature_size, call.placed.k_page);
        else if (name == "v") key(call.v, call.value_size, call.placed.v_page);
        else if (name == "k_scale") place(name, strides, call.shared, slots_, 1, call.placed.k_scale, std::max<int64_t>(num_pages_, 1), call.placed.k_scale_page);
        else if (name == "v_scale") place(name, strides, call.shared, slots_, 1, call.placed.v_scale, std::max<int64_t>(num_pages_, 1), call.placed.v_scale_page);
        else if (name == "k_recent") place(name, strides, call.shared, recent_slots(), call.feature_size, call.recent.k);
        else if (name == "v_recent") place(name, strides, call.shared, recent_slots(), call.value_size, call.recent.v);
        else if (name == "out") fill(out_, call.rows, call.value_size);
        else if (name == "grad") fill(grad_, call.rows, call.value_size);
        else if (name == "sink") fill(sink_, call.rows, 1);
        else if (name == "lse") fill(lse_, call.rows, 1);
        else if (name == "buckets") fill(buckets_, call.rows, call.num_buckets);
        else if (name == "dq") fill(dq_, call.rows, call.feature_size);
        else if (name == "dk") fill(dk_, call.keys, call.feature_size);
        else if (name == "dv") fill(dv_, call.keys, call.value_size);
        else throw CallError("an attention call knows no tensor called " + name);
    }

    qkv::Element row_element(int element) const {
        if (element < 0) return problem_.element;
        const auto wanted = static_cast<qkv::Element>(element);
        const bool known = element <= static_cast<int>(qkv::Element::f16);
        if (!known || (wanted == qkv::Element::f64) != (problem_.element == qkv::Element::f64)) {
            throw CallError("an attention call has results of a type that it does not work in");
        }
        return wanted;
    }

    qkv::Axes recent_slots() const {
        qkv::Axes axes;
        axes.count = 1, axes.size[0] = problem_.recent.slots;
        return axes;
    }

    void place_recent(const Placing& placing) {
        qkv::Recent& recent = problem_.recent;
        const int64_t element = placed_number(placing, "recent_element", -1);
        recent.slots = placed_number(placing, "recent_slots", 0);
        checked_total("the slots of recent keys", {recent.slots});
        if (recent.slots < 1 || !qkv::is_code(problem_.key_element) || element <= static_cast<int64_t>(qkv::Element::f64) ||
            element > static_cast<int64_t>(qkv::Element::f16)) {
            throw CallError("recent keys are not described, or stand beside keys that are no codes");
        }
        recent.element = static_cast<qkv::Element>(element);
    }

    // Where keys lie, before strides are known: `slots_` are the axes along which strides of keys run.
    void place_keys(const Placing& placing) {
        qkv::Placement& placed = problem_.placed;
        slots_ = problem_.keys;
        if (placing.empty()) return;
        if (problem_.keys.count != 1) throw CallError("keys that are placed have not one axis");
        if (placing.contains("recent_slots")) {
            place_recent(placing);
            if (!placing.contains("ring_slots") && !placing.contains("num_pages")) return;
        }
        if (placing.contains("ring_slots")) {
            placed.ring_slots = placed_number(placing, "ring_slots", 0);
            checked_total("the slots of a ring", {placed.ring_slots});
            if (placed.ring_slots < 1 || problem_.keys.size[0] > placed.ring_slots) throw CallError("a ring has fewer slots than keys");
            slots_.size[0] = placed.ring_slots;
            return;
        }
        num_pages_ = placed_number(placing, "num_pages", 0);
        const int64_t slots = placed_number(placing, "page_slots", 0);
        const auto steps = placing.find("page_shared"), apart = placing.find("pages_apart");
        if (num_pages_ < 1 || num_pages_ > INT32_MAX || slots < 1 || slots > INT32_MAX || steps == placing.end() || apart == placing.end() ||
            steps->second.size() != static_cast<std::size_t>(problem_.shared.count) || apart->second.size() != 4) {
            throw CallError("the pages of keys are not described");
        }
        placed.page_slots = slots;
        for (int n = 0; n < problem_.shared.count; ++n) {
            placed.page_shared[n] = steps->second[static_cast<std::size_t>(n)];
            if (placed.page_shared[n] < 0) throw CallError("a stride of the pages is below 0");
        }
        placed.k_page = apart->second[0], placed.v_page = apart->second[1];
        placed.k_scale_page = apart->second[2], placed.v_scale_page = apart->second[3];
        slots_.size[0] = slots;
    }

    // What changes from call to call of where keys lie. Every page that the table names is there.
    void find_keys(qkv::Problem& call, Address k_scale, Address v_scale, Address pages, int64_t ring_start, int64_t num_keys) const {
        qkv::Placement& placed = call.placed;
        if (num_keys >= 0) {
            if (call.keys.count != 1 || num_keys > call.keys.size[0]) throw CallError("an attention call has more keys than it was made for");
            call.keys.size[0] = num_keys;
        }
        if (qkv::is_code(call.key_element)) {
            if (k_scale == 0 || v_scale == 0) throw CallError("an attention call with codes has no scales");
            placed.k_scale.data = pointer(k_scale), placed.v_scale.data = pointer(v_scale);
        }
        if (placed.ring_slots > 0) {
            if (ring_start < 0 || ring_start >= placed.ring_slots) throw CallError("a ring begins outside its slots");
            placed.ring_start = ring_start;
        }
        if (num_pages_ > 0) {
            if (pages == 0) throw CallError("an attention call has no table of pages");
            placed.pages = static_cast<const int32_t*>(pointer(pages));
            const int64_t count = (call.keys.size[0] + slots_.size[0] - 1) / slots_.size[0];
            check_pages(placed, 0, placed.pages, count);
        }
    }

    void find_recent(qkv::Problem& call, Address k, Address v, int64_t first) const {
        qkv::Recent& recent = call.recent;
        if (recent.slots == 0) return;
        if (k == 0 || v == 0) throw CallError("an attention call has no recent keys");
        if (first < 0 || call.keys.size[0] - first > recent.slots) throw CallError("recent keys are more than their slots");
        recent.k.data = pointer(k), recent.v.data = pointer(v), recent.first = first;
    }

    void check_pages(const qkv::Placement& placed, int axis, const int32_t* at, int64_t count) const {
        if (axis == problem_.shared.count) {
            for (int64_t n = 0; n < count; ++n)
                if (at[n] < 0 || at[n] >= num_pages_) throw CallError("a table of pages names one that is not there");
            return;
        }
        const int64_t step = placed.page_shared[axis], size = step == 0 && problem_.shared.size[axis] > 0 ? 1 : problem_.shared.size[axis];
        for (int64_t n = 0; n < size; ++n) check_pages(placed, axis + 1, at + n * step, count);
    }

    void start(qkv::Problem& call, Address q, Address k, Address v, nb::handle terms, double dropout, uint64_t seed) const {
        call.q.data = pointer(q), call.k.data = pointer(k), call.v.data = pointer(v);
        if (!(dropout >= 0.0 && dropout < 1.0)) throw CallError("dropout is no probability below 1");
        call.dropout = dropout, call.seed = seed;
        if (!terms.is_none()) {
            call.terms = terms_of(terms);
            if (call.terms->wide != (call.element == qkv::Element::f64)) throw CallError("terms and elements differ in their working type");
            call.masked = call.terms->masks(), call.scored = call.terms->changes();
        }
        if (call.num_buckets > 0 && (call.terms == nullptr || !call.terms->reads_rows())) throw CallError("a value table is given and no term reads it");
    }

    int threads(int asked) const { return work_ < kSmallWork || asked < 1 ? 1 : asked; }

    static void note(std::atomic<int32_t>& outside, int32_t found) {
        if (found >= 0) outside.store(found, std::memory_order_relaxed);
    }

    static int run_forward(const qkv::Forward& call, const qkv::Target& target, int num_threads) {
        const qkv::Schedule how = target.forward_schedule(call, num_threads);
        if (how.num_tasks == 0) return -1;
        void* partials = how.partial_bytes ? partial_memory.at_least(how.partial_bytes) : nullptr;
        std::atomic<int32_t> outside{-1};
        const auto task = [&](int64_t number, int) {
            note(outside, target.forward_task(call, how, number, scratch_memory.at_least(how.scratch_bytes), partials));
            scratch_memory.give_back();
        };
        qkv::parallel(num_threads, how.num_tasks, task);
        if (how.num_splits > 1) {
            const auto merge = [&](int64_t number, int) {
                target.forward_merge(call, how, number, scratch_memory.at_least(how.scratch_bytes), partials);
                scratch_memory.give_back();
            };
            qkv::parallel(num_threads, how.num_tasks / how.num_splits, merge);
        }
        partial_memory.give_back();
        return outside.load(std::memory_order_relaxed);
    }

    template <class T> static int run_backward(const qkv::Backward& call, const qkv::Target& target, int num_threads) {
        const qkv::BackwardSchedule how = target.backward_schedule(call);
        if (how.num_slots == 0) return -1;
        void* partials = how.partial_bytes ? partial_memory.at_least(how.partial_bytes) : nullptr;
        // Each slot's own accumulators, summed afterwards in the order of the slots.
        std::vector<std::unique_ptr<T[]>> own(static_cast<std::size_t>(call.num_tables));
        std::vector<void*> grads(call.table_grads, call.table_grads + call.num_tables);
        if (how.own_tables) {
            for (std::size_t n = 0; n < own.size(); ++n) {
                if (grads[n] == nullptr) continue;
                own[n] = std::make_unique<T[]>(static_cast<std::size_t>(how.num_slots * call.table_sizes[n]));
                grads[n] = own[n].get();
            }
        }
        std::atomic<int32_t> outside{-1};
        const auto slot = [&](int64_t number, int) {
            note(outside, target.backward_slot(call, how, number, scratch_memory.at_least(how.scratch_bytes), partials, grads.data()));
            scratch_memory.give_back();
        };
        qkv::parallel(num_threads, how.num_slots, slot);
        if (how.num_parts > 1) {
            const auto merge = [&](int64_t shared, int) { target.backward_merge(call, how, shared, partials); };
            qkv::parallel(num_threads, how.num_shared, merge);
        }
        for (std::size_t n = 0; n < own.size(); ++n) {
            if (!own[n]) continue;
            T* sum = static_cast<T*>(call.table_grads[n]);
            for (int64_t number = 0; number < how.num_slots; ++number) {
                const T* from = own[n].get() + number * call.table_sizes[n];
                for (int64_t m = 0; m < call.table_sizes[n]; ++m) sum[m] += from[m];
            }
        }
        partial_memory.give_back();
        return outside.load(std::memory_order_relaxed);
    }

    qkv::Problem problem_;
    qkv::Axes slots_;         // the keys' axis as strides have it: a page's or a ring's slots
    int64_t num_pages_ = 0;   // 0: keys are not in pages
    qkv::Element out_element_, grad_element_;
    View out_, grad_, sink_, lse_, buckets_, dq_, dk_, dv_;
    double work_ = 0.0;
};

void translate_call(const std::exception_ptr& raised, void*) {
    try {
        std::rethrow_exception(raised);
    } catch (const CallError& error) {
        const std::string text = std::string(error.what()) + "; please report this";
        PyErr_SetString(nb::module_::import_("qkv.errors").attr("InternalError").ptr(), text.c_str());
    }
}

}  // namespace

void register_attention(nb::module_& m) {
    nb::register_exception_translator(&translate_call);
    nb::class_<Attention>(m, "Attention", "Attention calls of one signature, checked.")
        .def(nb::init<int, const Sizes&, const Sizes&, const Sizes&, int64_t, int64_t, double, int, double, int64_t, const Sizes&, int64_t,
                      const std::map<std::string, Strides>&, int, int, int, const Placing&>(),
             nb::arg("element"), nb::arg("shared"), nb::arg("rows"), nb::arg("keys"), nb::arg("feature_size"), nb::arg("value_size"),
             nb::arg("scale"), nb::arg("weighing"), nb::arg("bias"), nb::arg("terms_shared"), nb::arg("pair_row"),
             nb::arg("num_buckets"), nb::arg("views"), nb::arg("key_element") = -1, nb::arg("out_element") = -1,
             nb::arg("grad_element") = -1, nb::arg("placing") = Placing())
        .def("forward", &Attention::forward, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"), nb::arg("sink") = 0,
             nb::arg("lse") = 0, nb::arg("level") = 0, nb::arg("entropy") = 0, nb::arg("argmax") = 0, nb::arg("buckets") = 0,
             nb::arg("terms").none() = nb::none(), nb::arg("dropout") = 0.0, nb::arg("seed") = 0, nb::arg("num_threads") = 1,
             nb::arg("k_scale") = 0, nb::arg("v_scale") = 0, nb::arg("pages") = 0, nb::arg("ring_start") = 0, nb::arg("num_keys") = -1,
             nb::arg("k_recent") = 0, nb::arg("v_recent") = 0, nb::arg("recent_first") = 0)
        .def("run", &Attention::run, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"), nb::arg("terms").none(), nb::arg("num_threads"))
        .def("backward", &Attention::backward, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("grad"), nb::arg("lse"), nb::arg("delta"),
             nb::arg("bucket_grad"), nb::arg("dq"), nb::arg("dk"), nb::arg("dv"), nb::arg("table_grads"), nb::arg("table_sizes"),
             nb::arg("tables_apart"), nb::arg("terms").none(), nb::arg("dropout"), nb::arg("seed"), nb::arg("num_threads"));
}
