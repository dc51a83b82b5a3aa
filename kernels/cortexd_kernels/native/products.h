// Products of a weight matrix and some rows of activations: y = f(W x), W [out, in] as it lies in a file.
//
// Each number of y is the sum over `in` of one vector of partial sums from left to right, and then of its lanes: an order that does
// not depend on how many rows of x there are, on the shape of the tile it is computed in, or on the threads.
#pragma once

#include "pool.h"
#include "vectors.h"

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

constexpr int CHUNK_BYTES = 64 * 1024;  // of weights that a thread takes at once
constexpr int ROWS_AT_ONCE = 4;         // of x, in one tile
constexpr int AHEAD = 16 * 1024;        // bytes by which weights are asked for before they are needed

inline void finish(float sum, float* y, Finish how) {
    switch (how) {
        case KEEP: *y = sum; break;
        case TANH: *y = hyperbolic_tangent(broadcast(sum))[0]; break;
        case SIGMOID: *y = sigmoid(broadcast(sum))[0]; break;
        case RELU_SQUARED: *y = sum > 0 ? sum * sum : sum <= 0 ? 0 : sum; break;  // not a number stays none
        case ADD: *y += sum; break;
    }
}

// R rows of weights times B rows of x.
template <class W, int R, int B>
inline void tile(const Matrix& m, const char* rows, int first, const Product& p, const float* x, float* y) {
    const int columns = m.columns;
    const size_t stride = (size_t)columns * W::bits / 8;
    constexpr int line = 64 * 8 / W::bits > VL ? 64 * 8 / W::bits : VL;  // numbers
    vf sums[R][B] = {};
    auto add = [&](int k) __attribute__((always_inline)) {
        vf w[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) w[r] = W::load(rows + r * stride, k);
#pragma GCC unroll 16
        for (int b = 0; b < B; b++) {
            const vf v = load(x + (size_t)b * columns + k);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) sums[r][b] = fma(w[r], v, sums[r][b]);
        }
    };
    int k = 0;
    for (; k + line <= columns; k += line) {
        // In the order in which they lie: memory gives one stream faster than R of them.
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) __builtin_prefetch(rows + AHEAD + (size_t)k * W::bits / 8 * R + r * 64);
#pragma GCC unroll 16
        for (int j = 0; j < line; j += VL) add(k + j);
    }
    for (; k < columns; k += VL) add(k);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        const float scale = m.scales ? m.scales[first + r] : 1.0f;
#pragma GCC unroll 16
        for (int b = 0; b < B; b++) finish(sum(sums[r][b]) * scale, y + (size_t)b * m.rows + first + r, p.finish);
    }
}

template <class W, int R, int B>
void tiles(const Matrix& m, const char* rows, int first, int count, const Product& p, const float* x, float* y) {
    const size_t stride = (size_t)m.columns * W::bits / 8;
    int row = 0;
    for (; row + R <= count; row += R) tile<W, R, B>(m, rows + row * stride, first + row, p, x, y);
    for (; row < count; row++) tile<W, 1, B>(m, rows + row * stride, first + row, p, x, y);
}

// `count` rows of weights from `rows` on, which are those from `first` on of the matrix, times T rows of x.
template <class W>
void rows_times_all(const Matrix& m, const char* rows, int first, int count, const Product& p, int T) {
    for (int t = 0; t < T; t += ROWS_AT_ONCE) {
        const float* x = p.x + (size_t)t * m.columns;
        float* y = p.y + (size_t)t * m.rows;
        switch (T - t) {
            case 1: tiles<W, 4, 1>(m, rows, first, count, p, x, y); break;
            case 2: tiles<W, 4, 2>(m, rows, first, count, p, x, y); break;
            case 3: tiles<W, 4, 3>(m, rows, first, count, p, x, y); break;
            default: tiles<W, 3, 4>(m, rows, first, count, p, x, y);
        }
    }
}

template <class W>
void some_rows(const Matrix& m, int first, int count, const Product& p, int T) {
    rows_times_all<W>(m, m.data + (size_t)first * m.columns * W::bits / 8, first, count, p, T);
}

inline int bits_of(Format format) { return format == FLOAT32 ? 32 : format == INT8 ? 8 : 16; }

// Rows of weights that a thread takes at once: a multiple of all heights of tiles.
inline int rows_at_once(const Matrix& m) {
    const int rows = CHUNK_BYTES / ((int64_t)m.columns * bits_of(m.format) / 8 + 1);
    return rows < 24 ? 12 : rows - rows % 12;
}

inline int pieces_of(const Matrix& m) { return (m.rows + rows_at_once(m) - 1) / rows_at_once(m); }

// All `count` products of T rows, as one work.
inline void multiply(Pool& pool, const Product* products, int count, int T) {
    int pieces = 0;
    for (int i = 0; i < count; i++) pieces += pieces_of(*products[i].matrix);
    pool.run(pieces, [&](int piece) {
        const Product* p = products;
        for (; piece >= pieces_of(*p->matrix); p++) piece -= pieces_of(*p->matrix);
        const Matrix& m = *p->matrix;
        const int at_once = rows_at_once(m), first = piece * at_once;
        const int rows = m.rows - first < at_once ? m.rows - first : at_once;
        switch (m.format) {
            case FLOAT32: return some_rows<Float32>(m, first, rows, *p, T);
            case BFLOAT16: return some_rows<Bfloat16>(m, first, rows, *p, T);
            case FLOAT16: return some_rows<Float16>(m, first, rows, *p, T);
            case INT8: return some_rows<Int8>(m, first, rows, *p, T);
        }
    });
}

}  // namespace
