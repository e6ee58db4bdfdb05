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

// The same where items are a step apart: what inner loops can keep in registers.
template <class E> struct Line {
    E* base;
    int64_t step;

    QKV_INLINE E* operator()(int64_t n) const { return base + n * step; }
};

}  // namespace qkv::QKV_TARGET
