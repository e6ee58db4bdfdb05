// The functions that a target's table holds: a call cut into tasks, one task, and the merge of split keys.
#pragma once

#include "forward.h"

namespace qkv::QKV_TARGET {

constexpr int64_t kLeastSplit = 1024;  // keys; fewer are not worth a merge
constexpr int64_t kManyTasks = 16;     // so many tasks are enough for any cut of keys to be left alone

// A split's results for one row, as they are merged: the fields of RowState, the place, then sums and buckets.
template <class T> static int64_t partial_values(const Forward& call) {
    return RowState<T>::kFields + 8 / sizeof(T) + padded_values<T>(call.value_size) + call.num_buckets;
}

template <class T> static Schedule schedule_for(const Forward& call, int num_threads) {
    Schedule out;
    out.num_shared = call.shared.total(), out.num_rows = call.rows.total(), out.num_keys = call.keys.total();
    // Keys are cut by the sizes of the call alone.
    const int64_t largest = (out.num_rows + kMostChunkRows - 1) / kMostChunkRows;
    const int64_t independent = out.num_shared * (largest > 0 ? largest : 1);
    int64_t splits = independent > 0 && independent < kManyTasks ? kManyTasks / independent : 1;
    const int64_t most = out.num_keys / kLeastSplit;
    splits = splits < most ? splits : most > 0 ? most : 1;
    out.split_keys = splits > 1 ? rounded_up((out.num_keys + splits - 1) / splits, kBlockKeys) : out.num_keys;
    out.num_splits = out.split_keys > 0 ? (out.num_keys + out.split_keys - 1) / out.split_keys : 1;
    if (out.num_splits < 1) out.num_splits = 1;
    // Rows are cut so that threads share them evenly, within one run of the last row axis where that is long.
    const int64_t run = call.rows.count ? call.rows.size[call.rows.count - 1] : 1;
    const int64_t within = run >= 2 * kGroupRows ? run : out.num_rows;
    int64_t rows = kMostChunkRows;
    while (rows > 4 * kGroupRows && out.num_shared * ((out.num_rows + rows - 1) / rows) < 4 * num_threads && num_threads > 1)
        rows /= 2;
    if (rows > within) rows = within;
    out.chunk_rows = rows;
    out.num_chunks = out.num_rows && rows ? out.num_rows / within * ((within + rows - 1) / rows) : 0;
    out.num_tasks = out.num_shared * out.num_chunks * out.num_splits;
    out.scratch_bytes = Workspace<T>::bytes(call, rounded_up(rows, group_rows_of<T>(call)));
    if (out.num_splits > 1)
        out.partial_bytes = sizeof(T) * partial_values<T>(call) * out.num_shared * out.num_rows * out.num_splits;
    return out;
}

struct Part {
    int64_t shared, row0, rows, split;
};

// Tasks are numbered so that the last rows come first: under a causal mask they are the longest.
static inline Part part_of(const Problem& call, const Schedule& how, int64_t task) {
    const int64_t split = task % how.num_splits;
    const int64_t shared = task / how.num_splits % how.num_shared;
    const int64_t chunk = how.num_chunks - 1 - task / how.num_splits / how.num_shared;
    const int64_t run = call.rows.count ? call.rows.size[call.rows.count - 1] : 1;
    const int64_t within = run >= 2 * kGroupRows ? run : how.num_rows;
    const int64_t chunks = (within + how.chunk_rows - 1) / how.chunk_rows;
    const int64_t row = chunk / chunks * within + chunk % chunks * how.chunk_rows;
    const int64_t left = within - chunk % chunks * how.chunk_rows;
    return {shared, row, left < how.chunk_rows ? left : how.chunk_rows, split};
}

template <class T> struct Partial {
    T* values;

    Partial(const Forward& call, const Schedule& how, void* all, int64_t shared, int64_t row, int64_t split)
        : values(static_cast<T*>(all) +
                 partial_values<T>(call) * ((shared * how.num_rows + row) * how.num_splits + split)) {}
    T* sums() const { return values + RowState<T>::kFields + 8 / sizeof(T); }
};

template <class T>
static int32_t run_task(const Forward& call, const Schedule& how, int64_t task, void* scratch, void* partials) {
    const Part part = part_of(call, how, task);
    Chunk<T> chunk(call, part.shared, part.row0, part.rows, scratch);
    const Tiles tiles(chunk.paired);
    const int64_t first = part.split * how.split_keys;
    const int64_t last = first + how.split_keys < how.num_keys ? first + how.split_keys : how.num_keys;
    if (part.split > 0) chunk.leave_sinks_out();
    chunk.meet(first, last);
    if (how.num_splits == 1)
        chunk.finish();
    else
        for (int64_t n = 0; n < part.rows; ++n)
            chunk.save(n, Partial<T>(call, how, partials, part.shared, part.row0 + n, part.split).values);
    return chunk.work.terms.outside;
}

// Merges the splits of one task's rows in the order of their keys, and writes the results.
template <class T>
static void merge_task(const Forward& call, const Schedule& how, int64_t task, void* scratch, void* partials) {
    const Part part = part_of(call, how, task * how.num_splits);
    Chunk<T> chunk(call, part.shared, part.row0, part.rows, scratch);
    for (int64_t n = 0; n < part.rows; ++n) {
        for (int64_t split = 0; split < how.num_splits; ++split)
            chunk.take(n, Partial<T>(call, how, partials, part.shared, part.row0 + n, split).values, split == 0);
    }
    chunk.finish();
}

static Schedule forward_schedule(const Forward& call, int num_threads) {
    return call.element == Element::f64 ? schedule_for<double>(call, num_threads) : schedule_for<float>(call, num_threads);
}

static int32_t forward_task(const Forward& call, const Schedule& how, int64_t task, void* scratch, void* partials) {
    return call.element == Element::f64 ? run_task<double>(call, how, task, scratch, partials)
                                        : run_task<float>(call, how, task, scratch, partials);
}

static void forward_merge(const Forward& call, const Schedule& how, int64_t task, void* scratch, void* partials) {
    if (call.element == Element::f64)
        merge_task<double>(call, how, task, scratch, partials);
    else
        merge_task<float>(call, how, task, scratch, partials);
}

}  // namespace qkv::QKV_TARGET
