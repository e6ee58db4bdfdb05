// What the other kernels ask of programs: what a mask and a score function do to the scores of a place.
//
// Defined in terms.h, which is compiled by itself (see table.h): hundreds of small loops that change seldom.
#pragma once

#include "../terms.h"
#include "vec.h"

namespace qkv::QKV_TARGET {

// s, the scaled products of the place's rows and keys, becomes the scores after every term; -inf where a pair is
// dropped, whatever it was. `masked` is false where the whole place is known to be kept.
template <class T>
void apply_terms(const Terms& terms, const Place& place, T* s, int64_t stride, bool masked, Scratch& scratch);

// `ds`, the gradients of the scores after every term, become those of the scaled products `raw`; 0 where a pair is
// dropped. What tables get is added to table_grads[n], dense and by the number of the table; null where none is wanted.
// The terms were bound with gradients.
template <class T>
void terms_backward(const Terms& terms, const Place& place, const T* raw, int64_t raw_stride, T* ds, int64_t stride,
                    bool masked, T* const* table_grads, Scratch& scratch);

extern template void apply_terms<float>(const Terms&, const Place&, float*, int64_t, bool, Scratch&);
extern template void apply_terms<double>(const Terms&, const Place&, double*, int64_t, bool, Scratch&);
extern template void terms_backward<float>(const Terms&, const Place&, const float*, int64_t, float*, int64_t, bool,
                                           float* const*, Scratch&);
extern template void terms_backward<double>(const Terms&, const Place&, const double*, int64_t, double*, int64_t, bool,
                                            double* const*, Scratch&);

// Which row of the table of values each pair of the place reads.
void pair_rows(const Terms& terms, const Place& place, int32_t* out, int64_t stride, Scratch& scratch);

}  // namespace qkv::QKV_TARGET
