// Masks and score functions as the kernels meet them: coordinates, tables, and programs that are run over tiles.
//
// Knows what a call's terms are made of once they are bound (csrc/graph.h makes them). Refuses instruction sets and
// the standard library: target code includes this.
//
// A program is a list of instructions over strips of numbers. A value is computed as seldom as it changes: once for a
// tile, for each of its rows, for each of its keys, along the diagonals of the tile (positions of one row sequence and
// of the keys that only meet in their difference), or for each pair. Only the last costs time in proportion to pairs.
#pragma once

#include <stdint.h>

namespace qkv {

enum class Verdict : uint8_t { none, all, some };  // what a mask keeps of a block; `some` where that is not known

// A part of a call's scores: one flat index of the shared coordinates, rows (query-only) and keys.
struct Place {
    int64_t shared, row0, rows, key0, keys;
};

constexpr int64_t kTileRows = 32;   // larger places are worked through in tiles of this size
constexpr int64_t kTileKeys = 512;
constexpr int64_t kTileSpread = 32;  // of row positions within a tile, at most, for its diagonals to be used
constexpr int64_t kWorkBytes = 2 * (kTileKeys + kTileSpread) * 8;  // of a scratch, for the kernel's own strips

enum class Role : uint8_t { shared, row, key };

// index = (flat index of the role / divisor) % size; position = index + offset.
struct Coordinate {
    Role role;
    int64_t size, divisor, offset;
};

enum class Elements : uint8_t { boolean, u8, i8, i16, i32, i64, f32, f64, bf16, f16 };

struct Table {
    const void* data;
    Elements elements;
    int64_t count;  // how many elements its own gradient has
};

// What a strip holds: truth values are whole 32-bit words, 0 or -1.
enum class Type : uint8_t { b, i, l, f, d };
constexpr int64_t bytes_of(Type type) { return type == Type::l || type == Type::d ? 8 : 4; }

enum class Class : uint8_t { uniform, row, key, diagonal, full };

// Where an operand lies: an offset from the program's memory, moved by what its class asks for in each row.
enum class Base : uint8_t { memory, row4, row8, diagonal4, diagonal8, score, constants, num };

struct Reference {
    uint32_t offset;
    Base base;
    Class cls;
    Type type;
};

// Every strip operation. The last letters are the types that it works on.
#define QKV_NUMERIC(X, name) X(name##_i) X(name##_l) X(name##_f) X(name##_d)
#define QKV_REAL(X, name) X(name##_f) X(name##_d)
#define QKV_LOADS(X, name) \
    X(name##_boolean_b) X(name##_u8_i) X(name##_i8_i) X(name##_i16_i) X(name##_i32_i) X(name##_i64_i) X(name##_u8_l) \
    X(name##_i8_l) X(name##_i16_l) X(name##_i32_l) X(name##_i64_l) X(name##_f32_f) X(name##_f64_f) X(name##_bf16_f) \
    X(name##_f16_f) X(name##_f32_d) X(name##_f64_d) X(name##_bf16_d) X(name##_f16_d)
#define QKV_STRIPS(X) \
    QKV_NUMERIC(X, add) QKV_NUMERIC(X, sub) QKV_NUMERIC(X, mul) QKV_NUMERIC(X, floordiv) QKV_NUMERIC(X, mod) \
    QKV_NUMERIC(X, min) QKV_NUMERIC(X, max) QKV_NUMERIC(X, lt) QKV_NUMERIC(X, le) QKV_NUMERIC(X, eq) \
    QKV_NUMERIC(X, ne) QKV_NUMERIC(X, neg) QKV_NUMERIC(X, abs) QKV_NUMERIC(X, truth) QKV_REAL(X, div) \
    QKV_REAL(X, pow) QKV_REAL(X, exp) QKV_REAL(X, log) QKV_REAL(X, sqrt) QKV_REAL(X, tanh) QKV_REAL(X, sigmoid) \
    QKV_REAL(X, erf) QKV_REAL(X, sin) QKV_REAL(X, cos) QKV_REAL(X, floor) X(power_l) X(and_b) X(or_b) X(xor_b) \
    X(not_b) X(b_to_i) X(b_to_l) X(b_to_f) X(b_to_d) X(i_to_l) X(i_to_f) X(i_to_d) X(l_to_i) X(l_to_f) X(l_to_d) \
    X(select_4) X(select_8) QKV_LOADS(X, line) QKV_LOADS(X, gather_i) QKV_LOADS(X, gather_l)

enum class Strip : uint16_t {
#define QKV_NAME(name) name,
    QKV_STRIPS(QKV_NAME)
#undef QKV_NAME
    count,
    index_i = count,  // the leaves: an index, a position, the keys' positions along the diagonals, and the position
    index_l,          // of the row that the diagonals start from
    position_i,
    position_l,
    diagonal_key_i,
    diagonal_key_l,
    diagonal_row_i,
    diagonal_row_l,
};

// out = operation(a, b, c). `shape` has a bit for each operand that is one number for the whole strip. `which` is a
// coordinate or a table; a table is what c points to.
struct Instruction {
    Strip strip;
    uint8_t shape;
    Base bases[4];  // of out, a, b, c
    uint32_t offsets[4];
    int32_t which;
};

struct Section {
    const Instruction* first;
    int32_t count;
};

// How the gradient of one lookup is added up. `value` is d(score after)/d(element), where the element is
// table[scalar + strip[k]]; along keys that lie beside one another the strip is a step for each key.
struct Scatter {
    enum class How : uint8_t { one, line, strip } how;
    int32_t table;
    Reference value, scalar, strip;
    int64_t step;
};

// A lookup that may leave its table: `where` says at which pairs it was read outside.
struct Check {
    int32_t lookup;
    Reference where;
};

struct Program {
    Section sections[5];  // by class
    Reference result;
    const Check* checks;
    int32_t num_checks;
    const Scatter* scatters;
    int32_t num_scatters;
    const void* constants;
    uint32_t bytes;  // of memory for its strips
    int32_t row_coordinate, key_coordinate;  // whose positions the diagonals relate; -1 for none
    bool along_keys;  // it takes key_coordinate to grow by one from key to key within the tile
    bool present;
};

// A graph as two programs: `fast` for tiles whose keys stand beside one another, `general` for all.
struct Pair {
    Program fast, general;
    uint32_t memory;  // where its strips begin in a scratch's memory, behind the kernel's own
};

struct Bounds;  // what the mask's reader for bounds knows: csrc/interval.h

struct Terms {
    const Coordinate* coordinates;
    const Table* tables;
    int32_t num_coordinates, num_tables;
    bool wide;  // the score's programs work on double
    Pair keep, score, backward, row;
    const Bounds* bounds;  // null where there is no mask
    uint32_t scratch_bytes;

    __attribute__((always_inline)) bool masks() const { return keep.general.present; }    // some pair may be dropped
    __attribute__((always_inline)) bool changes() const { return score.general.present; }  // the score is not the scaled product itself
    __attribute__((always_inline)) bool reads_rows() const { return row.general.present; }  // pairs read rows of a table of values
};

// Memory of one thread for one call: `memory` is aligned to 64 bytes and has terms.scratch_bytes.
struct Scratch {
    char* memory;
    int32_t outside = -1;  // a lookup that left its table at a pair that counts
};

// What the mask keeps of a block of any size, soundly, in well under a microsecond for plain masks.
Verdict keep_verdict(const Terms& terms, int64_t shared, int64_t row0, int64_t rows, int64_t key0, int64_t keys);

}  // namespace qkv
