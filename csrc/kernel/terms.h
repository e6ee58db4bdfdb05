#pragma once
#include "../terms.h"
#include "vec.h"
namespace qkv::QKV_TARGET {
template <class T> static void apply_terms(const Terms&, const Place& p, T* s, int64_t stride, bool, Scratch&) { for(int r=0;r<p.rows;r++) for(int k=0;k<p.keys;k++) if(p.key0+k>p.row0+r) s[r*stride+k]=-__builtin_inff(); }
static void pair_rows(const Terms&, const Place&, int32_t*, int64_t, Scratch&) {}
}
