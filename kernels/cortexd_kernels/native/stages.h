// What RWKV-7 computes between its products. T rows of C numbers; rows of one sequence lie side by side, oldest first.
#pragma once

#include <algorithm>

#include "products.h"

extern "C" {

// S pieces of sequences, laid end to end: piece i is rows first[i] to first[i + 1], and its state is in slots[i].
struct Pieces {
    int32_t count;
    const int32_t *first, *slots;
};

// Where the state of a sequence is wanted as it is after `row`, with more of the sequence behind it: it is copied to these shifts [L, C]
// and wkv [L, H, N, N].
struct Mark {
    int32_t row;
    float *att_shift, *ffn_shift, *wkv;
};

// What a layer does to its streams head by head; all [C].
struct HeadWeights {
    const float *w0, *a0, *v0, *k_k, *k_a, *r_k, *norm_weight, *norm_bias;
};

// Streams [T, C]: products before bias and activation. `v_mix` is null in layer 0, whose v becomes v_first.
struct Streams {
    const float *r, *w, *k, *v, *a, *v_mix, *v_first, *g;
};
}

namespace {

constexpr int N = 64;  // channels in a head
constexpr int NV = N / VL;
constexpr int VALUE_ROWS = 32;    // of activations, in one piece of the sparse product
constexpr int VALUE_BLOCK = 512;  // rows of its weights that are used up before the next
constexpr float LN_EPS = 1e-5f, HEAD_NORM_EPS = 64e-5f;

inline void layer_norm(const float* x, const float* weight, const float* bias, int C, float* y) {
    vf total{}, squares{};
    for (int c = 0; c < C; c += VL) total = total + load(x + c);
    const vf mean = broadcast(sum(total) / C);
    for (int c = 0; c < C; c += VL) {
        const vf d = load(x + c) - mean;
        squares = fma(d, d, squares);
    }
    const vf scale = 1.0f / root(broadcast(sum(squares) / C + LN_EPS));
    for (int c = 0; c < C; c += VL) store(y + c, fma((load(x + c) - mean) * scale, load(weight + c), load(bias + c)));
}

// Layer norm, token shift and interpolation: h = LN(x); mixed[m] = h + (previous h − h) ⊙ mix[m] for each of `mixes` streams.
// shift [slots, C] holds each sequence's last h, and then that of its last row here. mix [mixes, C], mixed [mixes, T, C].
struct ShiftMix {
    const float *weight, *bias, *mix;
    int mixes, C;

    void operator()(Pool& pool, const Pieces& pieces, const float* x, float* h, float* mixed, float* shift) const {
        const int T = pieces.first[pieces.count];
        pool.run(T, [&](int t) { layer_norm(x + (size_t)t * C, weight, bias, C, h + (size_t)t * C); });
        pool.run(T, [&](int t) {
            int piece = 0;
            while (pieces.first[piece + 1] <= t) piece++;
            const float* own = h + (size_t)t * C;
            const float* previous = t > pieces.first[piece] ? own - C : shift + (size_t)pieces.slots[piece] * C;
            for (int c = 0; c < C; c += VL) {
                const vf now = load(own + c), difference = load(previous + c) - now;
                for (int m = 0; m < mixes; m++)
                    store(mixed + ((size_t)m * T + t) * C + c, fma(difference, load(mix + (size_t)m * C + c), now));
            }
        });
        for (int i = 0; i < pieces.count; i++)
            memcpy(shift + (size_t)pieces.slots[i] * C, h + (size_t)(pieces.first[i + 1] - 1) * C, C * sizeof(float));
    }
};

// S ← S·diag(w) − (S κ) bᵀ + v kᵀ and y = S r for one head: S [N, N] with value rows and key columns.
inline void recur(float* S, const vf* r, const vf* w, const vf* k, const float* v, const vf* kappa, const vf* b, float* y) {
    constexpr int rows = 4;
    for (int i = 0; i < N; i += rows, S += rows * N) {
        vf removed[rows] = {}, result[rows] = {};
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++)
#pragma GCC unroll 16
            for (int q = 0; q < rows; q++) removed[q] = fma(load(S + q * N + j * VL), kappa[j], removed[q]);
#pragma GCC unroll 16
        for (int q = 0; q < rows; q++) removed[q] = broadcast(-sum(removed[q]));
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++)
#pragma GCC unroll 16
            for (int q = 0; q < rows; q++) {
                float* at = S + q * N + j * VL;
                const vf kept = fma(broadcast(v[i + q]), k[j], load(at) * w[j]), now = fma(removed[q], b[j], kept);
                store(at, now);
                result[q] = fma(now, r[j], result[q]);
            }
#pragma GCC unroll 16
        for (int q = 0; q < rows; q++) y[i + q] = sum(result[q]);
    }
}

// The sum over a head of what `term` gives for each of its vectors.
template <class Term>
inline float over_head(Term term) {
    vf total{};
    for (int j = 0; j < NV; j++) total = total + term(j);
    return sum(total);
}

// One token of one head, whose channels begin at c; `at` is where they begin in the streams.
inline void head_step(const HeadWeights& p, const Streams& s, size_t at, int c, float* state, float* y) {
    vf r[NV], w[NV], k[NV], v[NV], kappa[NV], b[NV], a[NV];
    for (int j = 0; j < NV; j++) {
        const size_t i = at + j * VL;
        const int n = c + j * VL;
        r[j] = load(s.r + i), k[j] = load(s.k + i), v[j] = load(s.v + i);
        w[j] = exponential(-0.6065306597f * sigmoid(load(p.w0 + n) + load(s.w + i)));
        a[j] = sigmoid(load(p.a0 + n) + load(s.a + i));
        if (s.v_mix) v[j] = fma(load(s.v_first + i) - v[j], sigmoid(load(p.v0 + n) + load(s.v_mix + i)), v[j]);
        kappa[j] = k[j] * load(p.k_k + n);
        k[j] = k[j] * fma(a[j] - 1.0f, load(p.k_a + n), broadcast(1.0f));
    }
    const vf length = root(broadcast(over_head([&](int j) { return kappa[j] * kappa[j]; })));
    const vf least = broadcast(1e-12f), divisor = length < least ? least : length;
    for (int j = 0; j < NV; j++) kappa[j] = kappa[j] / divisor, b[j] = kappa[j] * a[j];

    float values[N], read[N];
    memcpy(values, v, sizeof values);
    recur(state, r, w, k, values, kappa, b, read);

    const vf bonus = broadcast(over_head([&](int j) { return r[j] * k[j] * load(p.r_k + c + j * VL); }));
    const vf mean = broadcast(over_head([&](int j) { return load(read + j * VL); }) / N);
    const float variance = over_head([&](int j) {
        const vf d = load(read + j * VL) - mean;
        return d * d;
    }) / N;
    const vf scale = 1.0f / root(broadcast(variance + HEAD_NORM_EPS));
    for (int j = 0; j < NV; j++) {
        const int n = c + j * VL;
        const vf normed = fma((load(read + j * VL) - mean) * scale, load(p.norm_weight + n), load(p.norm_bias + n));
        store(y + at + j * VL, fma(bonus, v[j], normed) * load(s.g + at + j * VL));
    }
}

// Everything between the products that make the streams and the output product; states [slots, H, N, N] are updated in place.
// copy(t, head, state) is told of each state when row t is in it.
template <class Copy>
void time_mix(Pool& pool, const Pieces& pieces, const HeadWeights& p, const Streams& s, int heads, float* states, float* y, Copy copy) {
    pool.run(pieces.count * heads, [&](int item) {
        const int piece = item / heads, head = item % heads;
        float* state = states + ((size_t)pieces.slots[piece] * heads + head) * N * N;
        for (int t = pieces.first[piece]; t < pieces.first[piece + 1]; t++) {
            head_step(p, s, ((size_t)t * heads + head) * N, head * N, state, y);
            copy(t, head, state);
        }
    });
}

// Activations [T, F]; and for each of the T where they are not zero: ids [T, F], of which `counts` [T] are set.
struct Activations {
    const float* numbers;
    int32_t *ids, *counts;
};

// Where an activation is not zero: ids [F] in rising order; returns how many.
inline int nonzero(const float* activations, int F, int32_t* ids) {
    int count = 0;
    for (int f = 0; f < F; f++) {
        ids[count] = f;
        count += activations[f] != 0;  // also where it is not a number
    }
    return count;
}

// sums [N] += Σ a[f] · weights[f] over the f in `ids` from `from` to `to`; those up to `count` are used later.
template <class W>
inline void add_rows(const Matrix& m, const char* data, const float* a, const int32_t* ids, int from, int to, int count, float* sums) {
    constexpr int ahead = 16;
    const size_t stride = W::bytes(m.columns);
    vf total[NV];
#pragma GCC unroll 16
    for (int j = 0; j < NV; j++) total[j] = load(sums + j * VL);
    for (int i = from; i < to; i++) {
        const int f = ids[i];
        const char* later = data + stride * ids[i + ahead < count ? i + ahead : i];
        for (size_t byte = 0; byte < W::bytes(N); byte += 64) __builtin_prefetch(later + byte);
        if constexpr (W::bytes(N) % 64) __builtin_prefetch(later + W::bytes(N) - 1);
        const vf factor = broadcast(m.scales ? a[f] * m.scales[f] : a[f]);
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++) {
            const char* row = data + stride * f;
            total[j] = fma(W::scaled(factor, row, j * VL), W::load(row, j * VL), total[j]);
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < NV; j++) store(sums + j * VL, total[j]);
}

// N columns from `first` on, of rows t to `end` of x.
template <class W>
void value_piece(const Matrix& m, const Activations& a, int first, int t, int end, float* x) {
    const int F = m.rows, rows = end - t, block = rows == 1 ? F : VALUE_BLOCK;
    const char* data = m.data + W::bytes(first);
    float sums[VALUE_ROWS * N] = {};
    int done[VALUE_ROWS] = {};
    for (int f = 0; f < F; f += block)
        for (int r = 0; r < rows; r++) {
            const int32_t* ids = a.ids + (size_t)(t + r) * F;
            const int from = done[r], count = a.counts[t + r];
            done[r] = (int)(std::lower_bound(ids + from, ids + count, f + block) - ids);
            add_rows<W>(m, data, a.numbers + (size_t)(t + r) * F, ids, from, done[r], count, sums + r * N);
        }
    for (int r = 0; r < rows; r++) {
        float* to = x + (size_t)(t + r) * m.columns + first;
        for (int c = 0; c < N; c += VL) store(to + c, load(to + c) + load(sums + r * N + c));
    }
}

// x [T, C] += a [T, F] · m [F, C], reading only the rows of m that meet an activation other than zero.
inline void add_value(Pool& pool, const Matrix& m, const Activations& a, int T, float* x) {
    pool.run(T, [&](int t) { a.counts[t] = nonzero(a.numbers + (size_t)t * m.rows, m.rows, a.ids + (size_t)t * m.rows); });
    const int across = m.columns / N, down = (T + VALUE_ROWS - 1) / VALUE_ROWS;
    pool.run(across * down, [&](int piece) {
        const int first = piece % across * N, t = piece / across * VALUE_ROWS, end = T - t < VALUE_ROWS ? T : t + VALUE_ROWS;
        with(m.format, [&](auto w) { value_piece<decltype(w)>(m, a, first, t, end, x); });
    });
}

}  // namespace
