// Products of a weight matrix and some rows of activations: y = f(W x), W [out, in] as it lies in a file.
//
// Each number of y is the sum over `in` of one vector of partial sums from left to right, and then of its lanes: an order that does
// not depend on how many rows of x there are, on the shape of the tile it is computed in, or on the threads. With int8 weights the
// sum is one of integers, exact in any order.
#pragma once

#include <algorithm>

#include "operands.h"
#include "pool.h"

extern "C" {

enum Format : int32_t { FLOAT32, BFLOAT16, FLOAT16, INT8 };

// `scales` of INT8: one for each row, which multiplies its sum; else null.
struct Matrix {
    const char* data;
    const float* scales;
    int32_t rows, columns;
    Format format;
};
}

namespace {

enum Finish { KEEP, TANH, SIGMOID, RELU_SQUARED, ADD };

// y [T, rows] = finish(x [T, columns] · Wᵀ); ADD adds to what y holds.
struct Product {
    const Matrix* matrix;
    const float* x;
    float* y;
    Finish finish;
};

// The operands of products that are computed at once; kept from one to the next for its memory.
struct Operands {
    struct Laid {
        const char* numbers;  // blocks of rows, [T, columns] together
        float* scales;        // [T] of integers
    };
    std::vector<Laid> laid;  // of each product
    Floats room;
};

constexpr int CHUNK_BYTES = 96 * 1024;  // of weights that a thread takes at once,
constexpr int CHUNK_ROWS = 24;          // or so many rows, if they are more: a multiple of all heights of tiles and of most VL
constexpr int MOST_ROWS = 96;
constexpr int NEAR_BYTES = 24 * 1024;  // of activations, which stay in the nearest cache while weights go by
constexpr int AHEAD = 16 * 1024;       // bytes by which weights are asked for before they are needed
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

// Rows of weights in a tile with B rows of x: sums, a vector of each row and one to multiply with, all in registers.
constexpr int height(int B) { return B <= 3 || REGISTERS == 32 ? 4 : B == 4 ? 3 : 2; }

inline int bits_of(Format format) { return format == FLOAT32 ? 32 : format == INT8 ? 8 : 16; }

// R rows of weights times B rows of x, over columns k to `end`; on top of `sums` if k is not 0.
template <class W, int R, int B>
inline void tile(const char* rows, size_t stride, const typename Operand<W>::Number* x, int k, int end, typename Operand<W>::Sum* sums) {
    using O = Operand<W>;
    constexpr int line = 64 * 8 / W::bits > O::step ? 64 * 8 / W::bits : O::step;  // numbers
    typename O::Sum s[R][B] = {};
    if (k > 0)
#pragma GCC unroll 16
        for (int i = 0; i < R * B; i++) s[i / B][i % B] = sums[i];
    auto add = [&](int k) __attribute__((always_inline)) {
        decltype(O::weights(rows, 0)) w[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) w[r] = O::weights(rows + r * stride, k);
#pragma GCC unroll 16
        for (int b = 0; b < B; b++) {
            const auto v = in_register(O::activations(x + (size_t)k * B + b * O::step));
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) s[r][b] = O::add(w[r], v, s[r][b]);
        }
    };
    const char* later = rows + AHEAD + (size_t)k * W::bits / 8 * R;
    for (; k + line <= end; k += line, later += line * W::bits / 8 * R) {
        // In the order in which they lie: memory gives one stream faster than R of them.
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) __builtin_prefetch(later + r * 64, 0, B == 1 ? 3 : 2);
#pragma GCC unroll 16
        for (int j = 0; j < line; j += O::step) add(k + j);
    }
    for (; k < end; k += O::step) add(k);
#pragma GCC unroll 16
    for (int i = 0; i < R * B; i++) sums[i] = s[i / B][i % B];
}

// `count` rows of weights times a block of B rows of x: sums [count, B].
template <class W, int B>
void block(const char* rows, int count, int columns, const typename Operand<W>::Number* x, typename Operand<W>::Sum* sums) {
    constexpr int R = height(B);
    constexpr int most = NEAR_BYTES / (B * (int)sizeof *x) / 64 * 64;
    const int at_once = B == 1 ? columns : most;
    const size_t stride = (size_t)columns * W::bits / 8;
    for (int k = 0; k < columns; k += at_once) {
        const int end = std::min(columns, k + at_once);
        int row = 0;
        for (; row + R <= count; row += R) tile<W, R, B>(rows + row * stride, stride, x, k, end, sums + row * B);
        for (; row < count; row++) tile<W, 1, B>(rows + row * stride, stride, x, k, end, sums + row * B);
    }
}

inline vf finished(vf x, Finish how) {
    switch (how) {
        case TANH: return hyperbolic_tangent(x);
        case SIGMOID: return sigmoid(x);
        case RELU_SQUARED: return x > 0 ? x * x : x <= 0 ? vf{} : x;  // not a number stays none
        default: return x;
    }
}

// Rows `first` to `first + count` of one column of yᵀ, from sums `width` apart.
template <class Sum>
void finish(const Product& p, int first, int count, const Sum* sums, int width, const float* scale, float* y) {
    for (int r = 0; r < count; r += VL, y += VL) {
        const int left = count - r;
        vf total = to_floats(sums_of(sums + r * width, width));
        if (scale) total = total * (load(p.matrix->scales + first + r, left) * *scale);
        total = finished(total, p.finish);
        store(y, p.finish == ADD ? load(y, left) + total : total, left);
    }
}

// `count` rows of weights from `first` on, times T rows of x.
template <class W>
void some_rows(const Product& p, const Operands::Laid& laid, int first, int count, int T) {
    using O = Operand<W>;
    const Matrix& m = *p.matrix;
    const char* rows = m.data + (size_t)first * m.columns * W::bits / 8;
    const auto* numbers = reinterpret_cast<const typename O::Number*>(laid.numbers);
    typename O::Sum sums[MOST_ROWS * BLOCK_ROWS];
    const Blocks blocks(T);
    for (int i = 0; i < blocks.count; i++) {
        const int t = blocks.begin(i), B = blocks.rows(i);
        const auto* x = numbers + (size_t)t * m.columns;
        switch (B) {
            case 1: block<W, 1>(rows, count, m.columns, x, sums); break;
            case 2: block<W, 2>(rows, count, m.columns, x, sums); break;
            case 3: block<W, 3>(rows, count, m.columns, x, sums); break;
            case 4: block<W, 4>(rows, count, m.columns, x, sums); break;
            case 5: block<W, 5>(rows, count, m.columns, x, sums); break;
            default: block<W, 6>(rows, count, m.columns, x, sums);
        }
        const int whole = (count + VL - 1) / VL * VL;
        std::fill(sums + count * B, sums + whole * B, typename O::Sum{});
        for (int b = 0; b < B; b++)
            finish(p, first, count, sums + b, B, laid.scales ? laid.scales + t + b : nullptr, p.y + (size_t)(t + b) * m.rows + first);
    }
}

// Rows of weights that a thread takes at once.
inline int rows_at_once(const Matrix& m) {
    const int rows = CHUNK_BYTES / ((int64_t)m.columns * bits_of(m.format) / 8 + 1);
    return std::clamp(rows - rows % CHUNK_ROWS, CHUNK_ROWS, MOST_ROWS);
}

inline int pieces_of(const Matrix& m) { return (m.rows + rows_at_once(m) - 1) / rows_at_once(m); }

// What `lay` makes of the T rows of each product. One row of fp32 is as it should be.
inline void lay_all(Pool& pool, const Product* products, int count, int T, Operands& operands) {
    const Blocks blocks(T);
    size_t size = 0;
    auto place = [&](size_t numbers) { return size += (numbers + 15) / 16 * 16, size - (numbers + 15) / 16 * 16; };
    std::vector<size_t> at(count), scales(count);
    for (int i = 0; i < count; i++) {
        const Matrix& m = *products[i].matrix;
        at[i] = place((size_t)T * m.columns / (m.format == INT8 ? 2 : 1)), scales[i] = place(T);
    }
    operands.laid.resize(count);
    if (operands.room.size() < size) operands.room = Floats(), operands.room.resize(size);  // nothing in it is kept
    float* room = operands.room.data();
    for (int i = 0; i < count; i++) {
        const bool integers = products[i].matrix->format == INT8;
        const bool stays = T == 1 && !integers;
        operands.laid[i] = {(const char*)(stays ? products[i].x : room + at[i]), integers ? room + scales[i] : nullptr};
    }
    pool.run(count * blocks.count, [&](int piece) {
        const int i = piece / blocks.count, first = blocks.begin(piece % blocks.count), rows = blocks.rows(piece % blocks.count);
        const int K = products[i].matrix->columns;
        for (int row = 0; row < rows; row++) {
            const float* x = products[i].x + (size_t)(first + row) * K;
            if (operands.laid[i].scales)
                room[scales[i] + first + row] = lay(x, K, row, rows, (int16_t*)(room + at[i]) + (size_t)first * K);
            else if (T > 1)
                lay(x, K, row, rows, room + at[i] + (size_t)first * K);
        }
    });
}

// All `count` products of T rows, as one work.
inline void multiply(Pool& pool, const Product* products, int count, int T, Operands& operands) {
    lay_all(pool, products, count, T, operands);
    int pieces = 0;
    for (int i = 0; i < count; i++) pieces += pieces_of(*products[i].matrix);
    pool.run(pieces, [&](int piece) {
        const Product* p = products;
        for (; piece >= pieces_of(*p->matrix); p++) piece -= pieces_of(*p->matrix);
        const int at_once = rows_at_once(*p->matrix), first = piece * at_once, rows = std::min(at_once, p->matrix->rows - first);
        const Operands::Laid& laid = operands.laid[p - products];
        switch (p->matrix->format) {
            case FLOAT32: return some_rows<Float32>(*p, laid, first, rows, T);
            case BFLOAT16: return some_rows<Bfloat16>(*p, laid, first, rows, T);
            case FLOAT16: return some_rows<Float16>(*p, laid, first, rows, T);
            case INT8: return some_rows<Int8>(*p, laid, first, rows, T);
        }
    });
}

}  // namespace
