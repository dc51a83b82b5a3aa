// Products of a weight matrix and some rows of activations: y = f(W x), W [out, in] as it lies in a file.
//
// Each number of y is the sum over `in` of one vector of partial sums from left to right, and then of its lanes: an order that does
// not depend on how many rows of x there are, on the shape of the tile it is computed in, or on the threads. With int8 weights the
// sum is one of integers, exact in any order; with int4 weights such sums, of 256 columns each, are added from left to right.
#pragma once

#include <algorithm>

#include "operands.h"
#include "pool.h"

extern "C" {

enum Format : int32_t { FLOAT32, BFLOAT16, FLOAT16, INT8, INT4 };

// `scales` of INT8 and INT4: one for each row, which multiplies its sum; else null.
struct Matrix {
    const char* data;
    const float* scales;
    int32_t rows, columns;
    Format format;
};
}

namespace {

// What `use` returns for the type of a format.
template <class Use>
auto with(Format format, Use use) {
    switch (format) {
        case BFLOAT16: return use(Bfloat16{});
        case FLOAT16: return use(Float16{});
        case INT8: return use(Int8{});
        case INT4: return use(Int4{});
        default: return use(Float32{});
    }
}

inline size_t row_bytes(const Matrix& m) {
    return with(m.format, [&](auto w) { return w.bytes(m.columns); });
}

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

// Weights of a row that make up a line of the cache, or a little more.
template <class W>
constexpr int line_of() {
    int numbers = Operand<W>::step;
    while (W::bytes(numbers) < 64) numbers += Operand<W>::step;
    return numbers;
}

// R rows of weights times B rows of x, over columns k to `end`; on top of `sums` if k is not 0.
template <class W, int R, int B>
inline void tile(const char* rows, size_t stride, const typename Operand<W>::Number* x, int k, int end, typename Operand<W>::Kept* sums) {
    using O = Operand<W>;
    constexpr int line = line_of<W>();
    constexpr int line_bytes = W::bytes(line);
    constexpr bool keeps_sums = O::span == ALL;
    const bool begins = k == 0;
    typename O::Sum s[R][B] = {};
    if constexpr (keeps_sums)
        if (!begins)
#pragma GCC unroll 16
            for (int i = 0; i < R * B; i++) s[i / B][i % B] = sums[i];
    auto add = [&](int k) __attribute__((always_inline)) {
        if constexpr (O::row_by_row) {
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                const auto w = O::weights(rows + r * stride, k);
#pragma GCC unroll 16
                for (int b = 0; b < B; b++) s[r][b] = O::add(w, O::activations(x + (size_t)k * B + b * O::step), s[r][b]);
            }
        } else {
            decltype(O::weights(rows, 0)) w[R];
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) w[r] = O::weights(rows + r * stride, k);
#pragma GCC unroll 16
            for (int b = 0; b < B; b++) {
                const auto v = O::activations(x + (size_t)k * B + b * O::step);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) s[r][b] = O::add(w[r], v, s[r][b]);
            }
        }
    };
    const char* later = rows + AHEAD + W::bytes(k) * R;
    for (; k + line <= end; k += line, later += line_bytes * R) {
        // In the order in which they lie: memory gives one stream faster than R of them.
#pragma GCC unroll 16
        for (int byte = 0; byte < R * line_bytes; byte += 64) __builtin_prefetch(later + byte, 0, B == 1 ? 3 : 2);
        if constexpr (O::row_by_row) {
#pragma GCC unroll 1
            for (int j = 0; j < line; j += O::step) add(k + j);
        } else {
#pragma GCC unroll 16
            for (int j = 0; j < line; j += O::step) add(k + j);
        }
    }
    for (; k < end; k += O::step) add(k);
#pragma GCC unroll 16
    for (int i = 0; i < R * B; i++) {
        if constexpr (keeps_sums)
            sums[i] = s[i / B][i % B];
        else
            sums[i] = begins ? to_floats(s[i / B][i % B]) : sums[i] + to_floats(s[i / B][i % B]);
    }
}

// `count` rows of weights times a block of B rows of x: sums [count, B].
template <class W, int B>
void block(const char* rows, int count, int columns, const typename Operand<W>::Number* x, typename Operand<W>::Kept* sums) {
    constexpr int span = Operand<W>::span, R = Operand<W>::height(B);
    constexpr int most = NEAR_BYTES / (B * (int)sizeof *x) / 256 * 256;
    const int at_once = B == 1 ? columns : most;
    const size_t stride = W::bytes(columns);
    for (int k = 0; k < columns; k += at_once) {
        const int end = std::min(columns, k + at_once);
        int row = 0;
        auto tiles = [&](auto height) __attribute__((always_inline)) {
            for (int from = k; from < end; from += span)
                tile<W, height.value, B>(rows + row * stride, stride, x, from, std::min(end, from + span), sums + row * B);
            row += height.value;
        };
        while (row + R <= count) tiles(std::integral_constant<int, R>{});
        while (row < count) tiles(std::integral_constant<int, 1>{});
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
    const char* rows = m.data + first * W::bytes(m.columns);
    const auto* numbers = reinterpret_cast<const typename O::Number*>(laid.numbers);
    typename O::Kept sums[MOST_ROWS * BLOCK_ROWS];
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
        std::fill(sums + count * B, sums + whole * B, typename O::Kept{});
        for (int b = 0; b < B; b++)
            finish(p, first, count, sums + b, B, laid.scales ? laid.scales + t + b : nullptr, p.y + (size_t)(t + b) * m.rows + first);
    }
}

// Rows of weights that a thread takes at once.
inline int rows_at_once(const Matrix& m) {
    const int rows = (int)(CHUNK_BYTES / (row_bytes(m) + 1));
    return std::clamp(rows - rows % CHUNK_ROWS, CHUNK_ROWS, MOST_ROWS);
}

inline int pieces_of(const Matrix& m) { return (m.rows + rows_at_once(m) - 1) / rows_at_once(m); }

// What `lay` makes of the T rows of each product. One row of fp32 is as it should be.
inline void lay_all(Pool& pool, const Product* products, int count, int T, Operands& operands) {
    const Blocks blocks(T);
    size_t size = 0;
    auto place = [&](size_t numbers) { return size += (numbers + 15) / 16 * 16, size - (numbers + 15) / 16 * 16; };
    std::vector<size_t> at(count), scales(count);
    auto has_scales = [&](int i) { return with(products[i].matrix->format, [](auto w) { return scales_rows<decltype(w)>; }); };
    for (int i = 0; i < count; i++) {
        const size_t numbers = (size_t)T * products[i].matrix->columns;
        at[i] = place(has_scales(i) ? numbers / 2 : numbers), scales[i] = place(T);
    }
    operands.laid.resize(count);
    if (operands.room.size() < size) operands.room = Floats(), operands.room.resize(size);  // nothing in it is kept
    float* room = operands.room.data();
    for (int i = 0; i < count; i++) {
        const bool stays = T == 1 && !has_scales(i);
        operands.laid[i] = {(const char*)(stays ? products[i].x : room + at[i]), has_scales(i) ? room + scales[i] : nullptr};
    }
    auto lay_piece = [&](int piece) {
        const int i = piece / blocks.count, first = blocks.begin(piece % blocks.count), rows = blocks.rows(piece % blocks.count);
        const int K = products[i].matrix->columns;
        if (T == 1 && !has_scales(i)) return;
        with(products[i].matrix->format, [&](auto w) {
            using W = decltype(w);
            auto* block = reinterpret_cast<typename Operand<W>::Number*>(room + at[i]) + (size_t)first * K;
            for (int row = 0; row < rows; row++)
                room[scales[i] + first + row] = lay<W>(products[i].x + (size_t)(first + row) * K, K, row, rows, block);
        });
    };
    if (T > 1) return pool.run(count * blocks.count, lay_piece);
    for (int i = 0; i < count; i++) lay_piece(i);  // one row takes less time than to tell another thread of it
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
        with(p->matrix->format, [&](auto w) { some_rows<decltype(w)>(*p, laid, first, rows, T); });
    });
}

}  // namespace
