// The contract between the door and the kernels: one attention call as pointers, sizes and strides.
//
// No word of an instruction set stands here. A call has shared axes (one problem for each of their elements), row axes
// (the queries), key axes, a feature and a value feature; any of them may have any stride, 0 included. Terms of masks and
// scores are programs (terms.h). Whoever fills these structs has checked sizes and pointers; `check` says what must hold.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "elements.h"
#include "terms.h"

namespace qkv {

constexpr int kMaxAxes = 8;
constexpr int kMostTables = 64;  // whose gradients one call adds up

struct Axes {
    int count = 0;
    int64_t size[kMaxAxes] = {};

    int64_t total() const {
        int64_t product = 1;
        for (int n = 0; n < count; ++n) product *= size[n];
        return product;
    }
};

// A tensor over the shared axes, the axes of its items (rows or keys) and one last axis; strides count elements.
struct View {
    void* data = nullptr;  // null: not wanted, or not there
    int64_t shared[kMaxAxes] = {};
    int64_t item[kMaxAxes] = {};
    int64_t last = 0;
};

enum class Weighing : uint8_t { softmax, sigmoid };

// Where keys and values lie that are not simply a step apart: in a ring, or in pages; there is one axis of keys then.
// Codes have scales. What a table of pages names past a call's keys is read by nobody.
struct Placement {
    int64_t ring_start = 0, ring_slots = 0;  // key n lies at slot (ring_start + n) % ring_slots; 0 slots: no ring
    const int32_t* pages = nullptr;          // key n lies in the page pages[n / page_slots]; null: no pages
    int64_t page_slots = 1;
    int64_t page_shared[kMaxAxes] = {};      // steps of the table of pages over the shared axes
    int64_t k_page = 0, v_page = 0;          // steps from page to page
    View k_scale, v_scale;                   // float, over the shared axes and the keys; of codes
    int64_t k_scale_page = 0, v_scale_page = 0;

    bool is_plain() const { return ring_slots == 0 && pages == nullptr; }
};

// The last keys and values of a call with codes once more, as floats, which are read in their place: those from `first`
// on, key n at slot n % slots.
struct Recent {
    int64_t first = 0, slots = 0;  // 0 slots: there are none
    Element element = Element::f32;
    View k, v;                     // over the shared axes and the slots
};

// What forward and backward have in common. The working type is double for double elements and float for all others.
struct Problem {
    Element element = Element::f32;     // of q
    Element key_element = Element::f32; // of k and v: f64 beside f64, else any other float, or codes
    Axes shared, rows, keys;  // rows: the last axis is the one that masks and tiles run along
    int64_t feature_size = 0, value_size = 0;
    double scale = 1.0;
    Weighing weighing = Weighing::softmax;
    double bias = 0.0;  // of a sigmoid
    View q;             // of `element`
    View k, v;          // of `key_element`; the strides of codes count bytes
    Placement placed;
    Recent recent;
    View sink;          // of the working type, over shared and row axes; null without sinks
    const Terms* terms = nullptr;
    int64_t terms_shared = 0;  // how many shared elements terms and dropout know: maps of differential weights share them
    bool masked = false;       // whether the terms can drop a pair
    bool scored = false;       // whether the terms change a score
    double dropout = 0.0;      // the probability that a weight is dropped
    uint64_t seed = 0;
    int64_t pair_row[kMaxAxes] = {};  // the step of each row axis in the order that dropout counts rows by
    int64_t num_buckets = 0;          // rows of a value table, 0 without
};

struct Forward : Problem {
    Element out_element = Element::f32;  // f64 beside f64, else any other float
    View out;                 // of `out_element`
    View lse, level, entropy; // of the working type; level: the largest score
    View argmax;              // int64
    View buckets;             // of the working type: each row's weights summed by the row of the value table they read
};

// Its keys lie where strides say, and are of q's type.
struct Backward : Problem {
    Element grad_element = Element::f32;  // likewise
    View grad;         // of the output, `grad_element`
    View lse, delta;   // working type: the row's lse (softmax), and what is subtracted from grad . v
    View bucket_grad;  // working type: grad times each row of the value table, features are rows of the table
    View dq, dk, dv;   // `element`; null where no gradient is wanted
    // For each table of the terms a dense accumulator of the working type, or null: which ones need a gradient. Where
    // slots have accumulators of their own (see the schedule) the functions get larger ones.
    void* const* table_grads = nullptr;
    const int64_t* table_sizes = nullptr;  // elements of each
    int num_tables = 0;
    bool tables_apart = false;  // tasks of different shared elements add to different elements of every table
};

// How a forward call is cut into tasks, which may run in any order on any thread. What a row's numbers are depends on
// the cut of its keys alone, and that on the sizes of the call: the number of threads changes no bit.
struct Schedule {
    int64_t num_shared = 0, num_rows = 0, num_keys = 0;
    int64_t chunk_rows = 0, num_chunks = 0;   // rows of a task
    int64_t split_keys = 0, num_splits = 0;   // keys of a task
    int64_t num_tasks = 0;
    size_t scratch_bytes = 0;                 // of each thread
    size_t partial_bytes = 0;                 // of the whole call, 0 with one split
};

// How a backward call is cut: the rows of a shared element in parts, each with sums of its own for dk and dv, and the
// parts in slots, each with accumulators of its own for tables. A slot's parts are run one after the other; slots may
// run in any order on any thread, and are summed in their order. All of it follows from the call's sizes.
struct BackwardSchedule {
    int64_t num_shared = 0, num_rows = 0, num_keys = 0;
    int64_t part_rows = 0, num_parts = 0;
    int64_t num_slots = 0;
    int64_t chunk_rows = 0;
    bool own_tables = false;    // each slot has accumulators of its own: num_slots times table_sizes, zeroed
    size_t scratch_bytes = 0;   // of each thread
    size_t partial_bytes = 0;   // of the whole call: the parts' sums, 0 with one part
};

}  // namespace qkv
