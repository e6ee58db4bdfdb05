// What the machine does at most, measured: multiply-adds and bytes read in a second.
//
// Knows how to time a loop on several threads at once and to keep the best of several trials, since whatever else runs
// only ever slows one down. Refuses to know the loops, which belong to the target in use.
#pragma once

#include <cstddef>
#include <string_view>

namespace qkv {

enum class ProbeType { f32, f64, bf16 };

// The type called "float32", "float64" or "bfloat16". Throws std::invalid_argument for any other name.
ProbeType probe_type(std::string_view name);

// Floating-point operations in a second on num_threads threads (at least 1) together, a multiply-add being two; takes
// about a tenth of a second. bf16 is f32 where the target has no instruction for pairs of bfloat16.
double probe_fma_flops(int num_threads, ProbeType type);

// Bytes in a second that num_threads threads (at least 1) read together from an array of about `bytes`, each a part of
// its own, again and again: what fits in a cache is read from there. Throws std::bad_alloc where memory is short.
double probe_read_bandwidth(int num_threads, std::size_t bytes);

}  // namespace qkv
