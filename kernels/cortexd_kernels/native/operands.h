// The rows of activations that a product takes, as its weights want them: fp32, or 16-bit integers beside a scale where weights are
// integers; and so laid out that a block of rows is read from front to back.
#pragma once

#include <climits>

#include "vectors.h"

namespace {

constexpr int BLOCK_ROWS = 6;             // of activations, in one tile
constexpr float LARGEST_INTEGER = 32767;  // of an activation
constexpr int ALL = 1 << 30;              // columns, more than there are

// Blocks of T rows, as even as can be: block i begins at row `begin(i)`.
struct Blocks {
    explicit Blocks(int T) : count((T + BLOCK_ROWS - 1) / BLOCK_ROWS), T_(T) {}
    int begin(int i) const { return (int)((int64_t)T_ * i / count); }
    int rows(int i) const { return begin(i + 1) - begin(i); }

    const int count;

private:
    const int T_;
};

#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

// Of a format of weights: how `step` of them are read for a product, and what they meet. `height(B)` is how many rows of weights a
// tile has with B rows of x: sums, weights and activations to multiply with, all in registers; or, `row_by_row`, sums and one row's
// weights. Sums over `span` columns are kept in registers, and as `Kept` between them.
template <class W>
struct Operand {
    using Number = float;
    using Sum = vf;
    using Kept = Sum;
    static constexpr int step = VL, span = ALL;
    static constexpr bool row_by_row = false;
    static constexpr int height(int B) { return B <= 3 || REGISTERS == 32 ? 4 : B == 4 ? 3 : 2; }
    static vf weights(const char* row, int k) { return W::load(row, k); }
    static vf activations(const Number* x) { return in_register(load(x)); }
    static vf add(vf w, vf x, vf sum) { return fma(w, x, sum); }
};

template <>
struct Operand<Int8> {
    using Number = int16_t;
    using Sum = vi;
    using Kept = Sum;
    static constexpr int step = 2 * VL, span = ALL;
    static constexpr bool row_by_row = false;
    static constexpr float largest_sum = 16400000;  // of the magnitudes of a row's integers: less than 2^24
    static constexpr int height(int B) { return Operand<Float32>::height(B); }
    static vs weights(const char* row, int k) { return widen(row + k); }
    static vs activations(const Number* x) {
        vs v;
        memcpy(&v, x, sizeof v);
        return in_register(v);
    }
    static vi add(vs w, vs x, vi sum) { return add_pairs(w, x, sum); }
};

// Sums of integers over 256 columns cannot overflow, and are added up in fp32.
template <>
struct Operand<Int4> {
    using Number = int16_t;
    using Sum = vi;
    using Kept = vf;
    static constexpr int step = Int4::group, span = 256, parts = Int4::parts;
    static constexpr bool row_by_row = true;
    static constexpr float largest_sum = __builtin_inff();
    static_assert((int64_t)span / VL * Int4::largest * (int)LARGEST_INTEGER <= INT_MAX);
    static constexpr int height(int B) {
        for (int R = 4; R > 1; R--)
            if (R * (B + 1) + parts <= REGISTERS) return R;
        return 1;
    }
    struct Numbers {
        vs parts[Int4::parts];
    };
    static Numbers weights(const char* row, int k) {
        Numbers w;
        Int4::widen(row + Int4::bytes(k), w.parts);
        return w;
    }
    static const Number* activations(const Number* x) { return x; }
    static vi add(const Numbers& w, const Number* x, vi sum) {
        for (int i = 0; i < parts; i++) {
            vs v;
            memcpy(&v, x + i * 2 * VL, sizeof v);
            sum = add_pairs(w.parts[i], v, sum);
        }
        return sum;
    }
};

// The scale of a row of `count` numbers that makes integers of them: 0 if they are next to nothing, not a number if one of them is none.
//
// With int8, a sum of products with weights of up to 128 stays within 32 bits, in whatever order and wherever it is cut, if the
// magnitudes of the integers add up to less than 2^24. Rounding adds at most 1/2 to each, hence `count`; the 2 % between
// `largest_sum` and 2^24 are far more than what fp32 loses in adding them here. This bound decides for rows of some 2,200 columns and
// more (normal distribution), LARGEST_INTEGER for shorter ones.
template <class Read>
inline float scale_of(int count, float largest_sum, Read read) {
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
    const float by_sum = total / (largest_sum - 0.5f * count), by_size = most / LARGEST_INTEGER;
    return by_sum > by_size ? by_sum : by_size;
}

inline vi integers(vf x, float scale) { return nearest(x * (1.0f / scale)); }

// Whether a format's activations are integers beside a scale.
template <class W>
constexpr bool scales_rows = std::is_same_v<typename Operand<W>::Number, int16_t>;

// Row `at` of a block of `rows` rows of K numbers; in the block, what is read for the same columns lies side by side. Returns the
// scale of integers.
template <class W>
inline float lay(const float* x, int K, int at, int rows, typename Operand<W>::Number* block) {
    using O = Operand<W>;
    float scale = 1;
    if constexpr (scales_rows<W>) scale = scale_of(K, O::largest_sum, [&](int k) { return load(x + k); });
    const bool none = !(scale > 0);
    for (int k = 0; k < K; k += VL) {
        auto* to = block + (size_t)(k / O::step * rows + at) * O::step + k % O::step;
        if constexpr (scales_rows<W>) {
            const half_vs q = none ? half_vs{} : __builtin_convertvector(integers(load(x + k), scale), half_vs);
            memcpy(to, &q, sizeof q);
        } else {
            store(to, load(x + k));
        }
    }
    return scale;
}

}  // namespace
