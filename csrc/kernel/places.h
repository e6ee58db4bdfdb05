// Where the elements of a tensor are: a flat index over several axes becomes an offset.
#pragma once

#include "../attention.h"
#include "vec.h"

namespace qkv::QKV_TARGET {

static inline int64_t offset_of(const Axes& axes, const int64_t (&strides)[kMaxAxes], int64_t flat) {
    if (axes.count == 1) return flat * strides[0];
    int64_t offset = 0;
    for (int n = axes.count - 1; n >= 0; --n) {
        offset += flat % axes.size[n] * strides[n];
        flat /= axes.size[n];
    }
    return offset;
}

// Items of one tensor within one shared element: `at(n)` is the first element of the n-th.
template <class E> struct Items {
    E* base;
    const Axes& axes;
    const View& view;
    int64_t first;

    Items(const Problem& problem, const Axes& items, const View& of, int64_t shared, int64_t start)
        : base(static_cast<E*>(of.data) + offset_of(problem.shared, of.shared, shared)), axes(items), view(of),
          first(start) {}

    QKV_INLINE E* operator()(int64_t n) const { return base + offset_of(axes, view.item, first + n); }
};

// The first element of one item, whatever its type.
static inline char* item_at(const Problem& problem, const Axes& items, const View& of, Element element, int64_t shared,
                            int64_t n) {
    const int64_t offset = offset_of(problem.shared, of.shared, shared) + offset_of(items, of.item, n);
    return static_cast<char*>(of.data) + offset * element_bytes(element);
}

// Keys or values, or their scales, of one shared element: `at(n)` is where the n-th begins, `together(n)` how many from
// there on lie a step apart.
struct Source {
    const char* base;
    const Axes* axes;
    const View* view;
    const int32_t* pages = nullptr;
    int64_t bytes, page_slots = 1, page_step = 0, ring_start = 0, ring_slots = 0;

    Source(const Problem& problem, const View& of, Element element, int64_t step_of_pages, int64_t shared)
        : axes(&problem.keys), view(&of), bytes(element_bytes(element)), page_slots(problem.placed.page_slots),
          page_step(step_of_pages), ring_start(problem.placed.ring_start), ring_slots(problem.placed.ring_slots) {
        base = static_cast<const char*>(of.data) + offset_of(problem.shared, of.shared, shared) * bytes;
        if (problem.placed.pages) pages = problem.placed.pages + offset_of(problem.shared, problem.placed.page_shared, shared);
    }

    // Those that lie once more, as floats: key n at slot n % slots.
    Source(const Problem& problem, const Recent& recent, const View& of, int64_t shared)
        : axes(&problem.keys), view(&of), bytes(element_bytes(recent.element)),
          ring_start(recent.first % recent.slots - recent.first), ring_slots(recent.slots) {
        base = static_cast<const char*>(of.data) + offset_of(problem.shared, of.shared, shared) * bytes;
    }

    QKV_INLINE const void* at(int64_t n) const {
        if (pages) return base + (pages[n / page_slots] * page_step + n % page_slots * view->item[0]) * bytes;
        if (ring_slots) {
            const int64_t slot = ring_start + n;
            return base + (slot < ring_slots ? slot : slot - ring_slots) * view->item[0] * bytes;
        }
        return base + offset_of(*axes, view->item, n) * bytes;
    }

    QKV_INLINE int64_t together(int64_t n) const {
        if (pages) return page_slots - n % page_slots;
        if (ring_slots) {
            const int64_t slot = ring_start + n;
            return slot < ring_slots ? ring_slots - slot : INT64_MAX;
        }
        return axes->count == 1 ? INT64_MAX : 1;
    }
};

// The same where items are a step apart: what inner loops can keep in registers.
template <class E> struct Line {
    E* base;
    int64_t step;

    QKV_INLINE E* operator()(int64_t n) const { return base + n * step; }
};

}  // namespace qkv::QKV_TARGET
