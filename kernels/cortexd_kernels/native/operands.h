// The rows of activations that a product takes, as its weights want them: fp32, or 16-bit integers beside a scale where weights are
// int8; and so laid out that a block of rows is read from front to back.
#pragma once

#include "vectors.h"

namespace {

constexpr int BLOCK_ROWS = 6;               // of activations, in one tile
constexpr float LARGEST_INTEGER = 32767;    // of an activation
constexpr float LARGEST_SUM = 16400000;     // of the magnitudes of a row's integers: less than 2^24

// Blocks of T rows, as even as can be: block i begins at row `begin(i)`.
struct Blocks {
    explicit Blocks(int T) : count((T + BLOCK_ROWS - 1) / BLOCK_ROWS), T_(T) {}
    int begin(int i) const { return (int)((int64_t)T_ * i / count); }
    int rows(int i) const { return begin(i + 1) - begin(i); }

    const int count;

private:
    const int T_;
};

// Of a format of weights: how a vector of them, `step` numbers, is read for a product, and what it meets.
template <class W>
struct Operand {
    using Number = float;
    using Sum = vf;
    static constexpr int step = VL;
    static vf weights(const char* row, int k) { return W::load(row, k); }
    static vf activations(const Number* x) { return load(x); }
    static vf add(vf w, vf x, vf sum) { return fma(w, x, sum); }
};

template <>
struct Operand<Int8> {
    using Number = int16_t;
    using Sum = vi;
    static constexpr int step = 2 * VL;
    static vs weights(const char* row, int k) { return widen(row + k); }
    static vs activations(const Number* x) {
        vs v;
        memcpy(&v, x, sizeof v);
        return v;
    }
    static vi add(vs w, vs x, vi sum) { return add_pairs(w, x, sum); }
};

// The scale of a row of `count` numbers that makes integers of them: 0 if they are next to nothing, not a number if one of them is none.
//
// A sum of products with weights of up to 128 stays within 32 bits, in whatever order and wherever it is cut, if the magnitudes of the
// integers add up to less than 2^24. Rounding adds at most 1/2 to each, hence `count`; the 2 % between LARGEST_SUM and 2^24 are far
// more than what fp32 loses in adding them here. This bound decides for rows of some 2,200 columns and more (normal distribution),
// LARGEST_INTEGER for shorter ones.
template <class Read>
inline float scale_of(int count, Read read) {
    vf totals{}, largest{};
    for (int k = 0; k < count; k += VL) {
        const vf x = magnitude(read(k));
        totals = totals + x;
        largest = largest < x ? x : largest;
    }
    float most = 0;
    for (int i = 0; i < VL; i++) most = most < largest[i] ? largest[i] : most;
    const float total = sum(totals);
    if (!(total < __builtin_inff())) return __builtin_nanf("");
    if (total < 1e-30f) return 0;
    const float by_sum = total / (LARGEST_SUM - 0.5f * count), by_size = most / LARGEST_INTEGER;
    return by_sum > by_size ? by_sum : by_size;
}

inline vi integers(vf x, float scale) { return nearest(x * (1.0f / scale)); }

// Row `at` of a block of `rows` rows of K numbers; in the block, vectors of the same columns lie side by side.
inline void lay(const float* x, int K, int at, int rows, float* block) {
    for (int k = 0; k < K; k += VL) store(block + (size_t)k * rows + at * VL, load(x + k));
}

// The same in integers; returns their scale.
inline float lay(const float* x, int K, int at, int rows, int16_t* block) {
    constexpr int step = 2 * VL;
    const float scale = scale_of(K, [&](int k) { return load(x + k); });
    const bool none = !(scale > 0);
    for (int k = 0; k < K; k += VL) {
        const half_vs q = none ? half_vs{} : __builtin_convertvector(integers(load(x + k), scale), half_vs);
        memcpy(block + (size_t)(k / step * rows + at) * step + k % step, &q, sizeof q);
    }
    return scale;
}

}  // namespace
