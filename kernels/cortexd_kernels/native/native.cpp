// RWKV-7 on the CPU: one call computes one step of the whole model. Plain C interface; fp32 arithmetic on weights of any format.
#include <new>

#include "sampling.h"
#include "stages.h"

extern "C" {

struct Layer {
    const float *ln1_weight, *ln1_bias, *mix;  // mix [6, C]: r, w, k, v, a, g
    Matrix receptance, key, value, output;
    Matrix w1, w2, a1, a2, v1, v2, g1, g2;  // 1 [rank, C], 2 [C, rank]; v of layer 0 is empty
    HeadWeights heads;
    const float *ln2_weight, *ln2_bias, *x_k;
    Matrix ffn_key, ffn_value;  // [F, C] both
};

struct Model {
    int32_t layers, width, heads, ffn_width;
    const Layer* layer;
    const float *ln0_weight, *ln0_bias, *out_weight, *out_bias;
    Matrix embedding, head;  // [V, C]
};

// The states of all sequences: shifts [L, slots, C], wkv [L, slots, H, N, N].
struct States {
    float *att_shift, *ffn_shift, *wkv;
    int32_t slots;
};

struct Step {
    Pieces pieces;
    const int32_t* tokens;  // [T]
    int32_t wanted;         // rows that need logits
    const int32_t* wanted_rows;
    float* logits;  // [wanted, V]
    int32_t mark_count;
    const Mark* marks;
};
}

namespace {

// What one step computes between its beginning and its end; [T, C] but where it says otherwise.
struct Room {
    float *x, *h, *r, *k, *v, *w, *a, *v_mix, *g, *v_first, *y;
    float* mixed;        // [6, T, C]
    float* inner[4];     // [T, rank] of w, a, v, g
    float* activations;  // [T, F]
    float* out;          // [wanted, C]
    int32_t *ids, *counts;  // [T, F], [T]

    void make(const Model& m, int T, int wanted) {
        size_t size = lay(m, T, wanted, nullptr);
        if (size > numbers_.size()) numbers_ = Floats(), numbers_.resize(size);  // nothing in them is kept
        lay(m, T, wanted, numbers_.data());
        if ((size_t)T * (m.ffn_width + 1) > ids_.size()) ids_.resize((size_t)T * (m.ffn_width + 1));
        counts = ids_.data(), ids = counts + T;
    }

private:
    size_t lay(const Model& m, int T, int wanted, float* base) {
        size_t at = 0;
        auto place = [&](float*& buffer, size_t count) {
            buffer = base + at;
            at += (count + 15) / 16 * 16;
        };
        const Layer& last = m.layer[m.layers - 1];  // the first has no v1
        const size_t rows = T;
        for (float** buffer : {&x, &h, &r, &k, &v, &w, &a, &v_mix, &g, &v_first, &y}) place(*buffer, rows * m.width);
        place(mixed, 6 * rows * m.width);
        const Matrix* ranks[] = {&last.w1, &last.a1, &last.v1, &last.g1};
        for (int i = 0; i < 4; i++) place(inner[i], rows * ranks[i]->rows);
        place(activations, rows * m.ffn_width);
        place(out, (size_t)wanted * m.width);
        return at;
    }

    Floats numbers_;
    std::vector<int32_t> ids_;
};

template <class W>
void widen_row(const Matrix& m, int row, float* to) {
    const char* from = m.data + row * W::bytes(m.columns);
    const vf factor = broadcast(m.scales ? m.scales[row] : 1.0f);
    for (int k = 0; k < m.columns; k += VL) store(to + k, W::load(from, k) * W::scaled(factor, from, k));
}

void look_up(const Matrix& m, int row, float* to) {
    with(m.format, [&](auto w) { widen_row<decltype(w)>(m, row, to); });
}

class Engine {
public:
    explicit Engine(const Model& model) : layers_(model.layer, model.layer + model.layers), m_(model) { m_.layer = layers_.data(); }

    void step(Pool& pool, const States& states, const Step& s) {
        const int T = s.pieces.first[s.pieces.count], C = m_.width;
        const size_t shifts = (size_t)states.slots * C;
        room_.make(m_, T, s.wanted);
        pool.run(T, [&](int t) {
            look_up(m_.embedding, s.tokens[t], room_.h + (size_t)t * C);
            layer_norm(room_.h + (size_t)t * C, m_.ln0_weight, m_.ln0_bias, C, room_.x + (size_t)t * C);
        });
        for (int i = 0; i < m_.layers; i++) {
            time_half(pool, s, i, states.att_shift + i * shifts, states.wkv + i * shifts * N, T);
            channel_half(pool, s, i, states.ffn_shift + i * shifts, T);
        }
        pool.run(s.wanted, [&](int i) {
            layer_norm(room_.x + (size_t)s.wanted_rows[i] * C, m_.out_weight, m_.out_bias, C, room_.out + (size_t)i * C);
        });
        if (s.wanted > 0) products(pool, s.wanted, {{&m_.head, room_.out, s.logits, KEEP}});
    }

private:
    void products(Pool& pool, int T, std::initializer_list<Product> all) {
        multiply(pool, all.begin(), (int)all.size(), T, operands_);
    }

    void time_half(Pool& pool, const Step& s, int layer, float* shift, float* wkv, int T) {
        const Room& o = room_;
        const Layer& l = layers_[layer];
        const bool first = layer == 0;
        const size_t stream = (size_t)T * m_.width;
        const float *for_r = o.mixed, *for_w = for_r + stream, *for_k = for_w + stream, *for_v = for_k + stream,
                    *for_a = for_v + stream, *for_g = for_a + stream;
        ShiftMix{l.ln1_weight, l.ln1_bias, l.mix, 6, m_.width}(pool, s.pieces, o.x, o.h, o.mixed, shift);
        copy_shifts(s, &Mark::att_shift, layer);
        float* v = first ? o.v_first : o.v;
        const Streams streams{o.r, o.w, o.k, v, o.a, first ? nullptr : o.v_mix, o.v_first, o.g};
        products(pool, T, {{&l.w1, for_w, o.inner[0], TANH}, {&l.a1, for_a, o.inner[1], KEEP},
                           {&l.v1, for_v, o.inner[2], KEEP}, {&l.g1, for_g, o.inner[3], SIGMOID},
                           {&l.receptance, for_r, o.r, KEEP}, {&l.key, for_k, o.k, KEEP}, {&l.value, for_v, v, KEEP}});
        products(pool, T, {{&l.w2, o.inner[0], o.w, KEEP}, {&l.a2, o.inner[1], o.a, KEEP},
                           {&l.v2, o.inner[2], o.v_mix, KEEP}, {&l.g2, o.inner[3], o.g, KEEP}});
        time_mix(pool, s.pieces, l.heads, streams, m_.heads, wkv, o.y, [&](int t, int head, const float* state) {
            for (int i = 0; i < s.mark_count; i++)
                if (s.marks[i].row == t)
                    memcpy(s.marks[i].wkv + ((size_t)layer * m_.heads + head) * N * N, state, N * N * sizeof(float));
        });
        products(pool, T, {{&l.output, o.y, o.x, ADD}});
    }

    void channel_half(Pool& pool, const Step& s, int layer, float* shift, int T) {
        const Room& o = room_;
        const Layer& l = layers_[layer];
        ShiftMix{l.ln2_weight, l.ln2_bias, l.x_k, 1, m_.width}(pool, s.pieces, o.x, o.h, o.mixed, shift);
        copy_shifts(s, &Mark::ffn_shift, layer);
        products(pool, T, {{&l.ffn_key, o.mixed, o.activations, RELU_SQUARED}});
        add_value(pool, l.ffn_value, {o.activations, o.ids, o.counts}, T, o.x);
    }

    void copy_shifts(const Step& s, float* Mark::*shift, int layer) {
        const size_t C = m_.width;
        for (int i = 0; i < s.mark_count; i++)
            memcpy(s.marks[i].*shift + layer * C, room_.h + s.marks[i].row * C, C * sizeof(float));
    }

    std::vector<Layer> layers_;
    Model m_;
    Room room_;
    Operands operands_;
};

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {

EXPORT Pool* cortexd_pool_new() { return new (std::nothrow) Pool; }
EXPORT void cortexd_pool_free(Pool* pool) { delete pool; }

EXPORT Engine* cortexd_engine_new(const Model* model) { return new (std::nothrow) Engine(*model); }
EXPORT void cortexd_engine_free(Engine* engine) { delete engine; }

// One step of all `pieces`; the states of their slots are brought forward.
EXPORT void cortexd_step(Engine* engine, Pool* pool, int32_t threads, const States* states, const Step* step) {
    pool->begin(threads);
    engine->step(*pool, *states, *step);
    pool->end();
}

// One token of each of `rows` rows of logits [rows, V], never one of the `banned`; -1 where no logit of a row is finite.
EXPORT void cortexd_sample(Pool* pool, int32_t threads, const float* logits, int32_t rows, int32_t vocabulary, const Draw* draws,
                           const int32_t* banned, int32_t banned_count, int32_t* tokens) {
    pool->begin(threads);
    pool->run(rows, [&](int row) {
        tokens[row] = draw(logits + (size_t)row * vocabulary, vocabulary, draws[row], banned, banned_count);
    });
    pool->end();
}

// The parts of a step by themselves, for products computed elsewhere.

EXPORT void cortexd_product(Pool* pool, int32_t threads, const Matrix* matrix, const float* x, int32_t rows, float* y) {
    const Product product{matrix, x, y, KEEP};
    pool->begin(threads);
    Operands operands;
    multiply(*pool, &product, 1, rows, operands);
    pool->end();
}

EXPORT void cortexd_shift_mix(Pool* pool, int32_t threads, const Pieces* pieces, const ShiftMix* how, const float* x, float* h,
                              float* mixed, float* shift) {
    pool->begin(threads);
    (*how)(*pool, *pieces, x, h, mixed, shift);
    pool->end();
}

EXPORT void cortexd_time_mix(Pool* pool, int32_t threads, const Pieces* pieces, const HeadWeights* weights, const Streams* streams,
                             int32_t heads, float* states, float* y) {
    pool->begin(threads);
    time_mix(*pool, *pieces, *weights, *streams, heads, states, y, [](int, int, const float*) {});
    pool->end();
}

EXPORT void cortexd_add_value(Pool* pool, int32_t threads, const Matrix* matrix, const float* activations, int32_t rows, float* x) {
    std::vector<int32_t> ids((size_t)rows * matrix->rows), counts(rows);
    pool->begin(threads);
    add_value(*pool, *matrix, {activations, ids.data(), counts.data()}, rows, x);
    pool->end();
}

// Reads `bytes` once by all threads, for a benchmark's measure of what the memory gives; returns something of what it read.
EXPORT float cortexd_read(Pool* pool, int32_t threads, const float* data, int64_t bytes) {
    constexpr int64_t piece_bytes = 1 << 20;
    pool->begin(threads);
    std::vector<float> sums(bytes / piece_bytes);
    pool->run((int)sums.size(), [&](int piece) {
        const float* from = data + piece * (piece_bytes / 4);
        vf total[4] = {};
        for (int64_t i = 0; i < piece_bytes / 4; i += 4 * VL) {
            for (int j = 0; j < 4 * VL; j += 16) __builtin_prefetch(from + i + j + AHEAD / 4);
            for (int j = 0; j < 4; j++) total[j] = total[j] + load(from + i + j * VL);
        }
        sums[piece] = sum(total[0] + total[1] + total[2] + total[3]);
    });
    pool->end();
    float total = 0;
    for (float one : sums) total += one;
    return total;
}

}  // extern "C"
