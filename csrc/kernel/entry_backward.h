// The functions of a target's table for the backward: the cut into slots, one slot, and the sums of several parts.
#pragma once

#include "backward.h"
#include "entry.h"

namespace qkv::QKV_TARGET {

constexpr int64_t kManySlots = 8;
constexpr int64_t kSlotTableBytes = 64 << 20;  // accumulators of all slots together

template <class T> static BackwardSchedule backward_schedule_for(const Backward& call) {
    BackwardSchedule out;
    out.num_shared = call.shared.total(), out.num_rows = call.rows.total(), out.num_keys = call.keys.total();
    int64_t table_bytes = 0;
    for (int n = 0; n < call.num_tables; ++n)
        if (call.table_grads[n]) table_bytes += call.table_sizes[n] * static_cast<int64_t>(sizeof(T));
    out.own_tables = table_bytes > 0 && !call.tables_apart;
    const int64_t most_parts = (out.num_rows + kBackChunk - 1) / kBackChunk;
    out.num_parts = out.num_shared > 0 && out.num_shared < kManySlots ? kManySlots / out.num_shared : 1;
    if (out.num_parts > most_parts) out.num_parts = most_parts;
    if (out.num_parts < 1 || (table_bytes > 0 && call.tables_apart)) out.num_parts = 1;
    out.part_rows = rounded_up((out.num_rows + out.num_parts - 1) / out.num_parts, kBackRows);
    out.num_parts = out.part_rows > 0 ? (out.num_rows + out.part_rows - 1) / out.part_rows : 1;
    if (out.num_parts < 1) out.num_parts = 1;
    out.num_slots = out.num_shared * out.num_parts;
    if (out.own_tables) {
        const int64_t fitting = kSlotTableBytes / table_bytes, most = fitting < kManySlots ? fitting : kManySlots;
        if (out.num_slots > most) out.num_slots = most > 0 ? most : 1;
    }
    out.chunk_rows = out.part_rows < kBackChunk ? rounded_up(out.part_rows, kBackRows) : kBackChunk;
    const int64_t own_keys = out.num_parts == 1 ? rounded_up(out.num_keys, kBackKeys) : 0;
    out.scratch_bytes = BackWorkspace<T>::bytes(call, out.chunk_rows, own_keys);
    if (out.num_parts > 1)
        out.partial_bytes = sizeof(T) * static_cast<size_t>(out.num_shared * out.num_parts * rounded_up(out.num_keys, kBackKeys)) *
                            (padded_values<T>(call.feature_size) + padded_values<T>(call.value_size));
    return out;
}

// The sums of one part for dk and dv.
template <class T> struct PartSums {
    T *dk, *dv;

    PartSums(const Backward& call, const BackwardSchedule& how, void* partials, int64_t part) {
        const int64_t keys = rounded_up(how.num_keys, kBackKeys);
        const int64_t wide_d = padded_values<T>(call.feature_size), wide_e = padded_values<T>(call.value_size);
        dk = static_cast<T*>(partials) + part * keys * (wide_d + wide_e);
        dv = dk + keys * wide_d;
    }
};

template <class T>
static void write_keys(const Backward& call, const BackwardSchedule& how, int64_t shared, const T* dk, const T* dv) {
    const int64_t wide_d = padded_values<T>(call.feature_size), wide_e = padded_values<T>(call.value_size);
    for (int64_t n = 0; n < how.num_keys; ++n) {
        if (call.dk.data)
            write_features<T>(call.element, dk + n * wide_d, call.feature_size, T(1),
                              item_at(call, call.keys, call.dk, call.element, shared, n), call.dk.last);
        if (call.dv.data)
            write_features<T>(call.element, dv + n * wide_e, call.value_size, T(1),
                              item_at(call, call.keys, call.dv, call.element, shared, n), call.dv.last);
    }
}

template <class T>
static int32_t run_slot(const Backward& call, const BackwardSchedule& how, int64_t slot, void* scratch, void* partials,
                        void* const* table_grads) {
    T* tables[kMostTables] = {};
    for (int n = 0; n < call.num_tables; ++n) {
        tables[n] = static_cast<T*>(table_grads[n]);
        if (tables[n] && how.own_tables) tables[n] += slot * call.table_sizes[n];
    }
    int32_t outside = -1;
    for (int64_t part = slot; part < how.num_shared * how.num_parts; part += how.num_slots) {
        const int64_t shared = part / how.num_parts, first = part % how.num_parts * how.part_rows;
        const int64_t last = first + how.part_rows < how.num_rows ? first + how.part_rows : how.num_rows;
        BackTask<T> task(call, how, shared, tables, scratch);
        if (how.num_parts == 1) {
            task.run(first, last, task.work.dk, task.work.dv);
            write_keys<T>(call, how, shared, task.work.dk, task.work.dv);
        } else {
            const PartSums<T> sums(call, how, partials, part);
            task.run(first, last, sums.dk, sums.dv);
        }
        if (task.work.terms.outside >= 0) outside = task.work.terms.outside;
    }
    return outside;
}

// Sums the parts of one shared element in their order, and writes dk and dv.
template <class T>
static void merge_parts(const Backward& call, const BackwardSchedule& how, int64_t shared, void* partials) {
    const PartSums<T> sums(call, how, partials, shared * how.num_parts);
    const int64_t keys = rounded_up(how.num_keys, kBackKeys);
    const int64_t count = keys * (padded_values<T>(call.feature_size) + padded_values<T>(call.value_size));
    for (int64_t part = 1; part < how.num_parts; ++part) {
        const PartSums<T> other(call, how, partials, shared * how.num_parts + part);
        for (int64_t n = 0; n < count; ++n) sums.dk[n] += other.dk[n];
    }
    write_keys<T>(call, how, shared, sums.dk, sums.dv);
}

static BackwardSchedule backward_schedule(const Backward& call) {
    return call.element == Element::f64 ? backward_schedule_for<double>(call) : backward_schedule_for<float>(call);
}

static int32_t backward_slot(const Backward& call, const BackwardSchedule& how, int64_t slot, void* scratch,
                             void* partials, void* const* table_grads) {
    return call.element == Element::f64 ? run_slot<double>(call, how, slot, scratch, partials, table_grads)
                                        : run_slot<float>(call, how, slot, scratch, partials, table_grads);
}

static void backward_merge(const Backward& call, const BackwardSchedule& how, int64_t shared, void* partials) {
    if (call.element == Element::f64)
        merge_parts<double>(call, how, shared, partials);
    else
        merge_parts<float>(call, how, shared, partials);
}

}  // namespace qkv::QKV_TARGET
