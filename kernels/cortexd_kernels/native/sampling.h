// Drawing one token from each row of logits, without ever sorting the vocabulary.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "pool.h"
#include "vectors.h"

extern "C" {

// How to draw from one row. `added` is added to the logits of `ids`, one after the other; `uniform` in (0, 1) decides.
struct Draw {
    const int32_t* ids;
    const float* added;
    double uniform;
    double temperature, top_p, min_p;
    int32_t adjustments, top_k, rwkv_order;
};
}

namespace {

constexpr double COLDEST = 1e-5;  // below, the largest logit wins for certain
constexpr int HALVINGS = 14;
constexpr int STRETCH = 64;                           // numbers that are looked at together

// Logits that may be drawn, in the order of their ids. Of equal logits on both sides of an edge those with the lowest ids stay.
class Candidates {
public:
    // False where no logit is finite; one that is not, or is banned, is never drawn.
    bool begin(const float* logits, int count, const Draw& d, const int32_t* banned, int banned_count) {
        count_ = count;
        const int padded = (count + STRETCH - 1) / STRETCH * STRETCH;
        x_.resize(padded), weights_.resize(padded), ids_.resize(padded);
        memcpy(x_.data(), logits, count * sizeof(float));
        for (int i = count; i < padded; i++) x_[i] = -INFINITY;
        for (int i = 0; i < padded; i++) ids_[i] = i;
        for (int i = 0; i < d.adjustments; i++) x_[d.ids[i]] += d.added[i];
        for (int i = 0; i < banned_count; i++) x_[banned[i]] = -INFINITY;
        if (!find_peak()) {
            for (float& x : x_) x = std::isfinite(x) ? x : -INFINITY;
            find_peak();
        }
        return peak_ > -INFINITY;
    }

    int first_largest() const { return ids_[std::find(x_.begin(), x_.begin() + count_, peak_) - x_.begin()]; }

    // The k largest; all if k is 0.
    void top_k(int k) {
        if (k <= 0 || k >= count_) return;
        std::fill_n(weights_.begin(), padded(), 1.0f);
        std::fill(weights_.begin() + count_, weights_.begin() + padded(), 0.0f);
        cut(k, false);
    }

    // The fewest that together have probability p; with `equals` those that are as large as the last of them too.
    void top_p(double p, double temperature, bool equals) {
        if (p >= 1) return;
        cut(p * weigh(temperature), equals);
    }

    // Those whose probability is at least p times that of the largest.
    void min_p(double p, double temperature) {
        if (p > 0) keep((float)(peak_ + temperature * std::log(std::min(p, 1.0))), 0);
    }

    // The first id at which the running sum of probabilities exceeds `uniform` of them all.
    int draw(double temperature, double uniform) {
        double left = uniform * weigh(temperature);
        int stretch = 0, last = 0;
        for (; stretch < (int)sums_.size() - 1 && sums_[stretch] <= left; stretch++) left -= sums_[stretch];
        for (int i = stretch * STRETCH; i < std::min(count_, (stretch + 1) * STRETCH); i++) {
            if (weights_[i] > 0) last = i;
            left -= weights_[i];
            if (left < 0) break;
        }
        return ids_[last];
    }

private:
    int padded() const { return (count_ + STRETCH - 1) / STRETCH * STRETCH; }

    // Sets the largest and the smallest finite logit; false where one is infinite or not a number.
    bool find_peak() {
        const vf infinite = broadcast(INFINITY);
        vf most = -infinite, least = infinite;
        vi good = ~vi{};
        for (int i = 0; i < padded(); i += VL) {
            const vf x = load(x_.data() + i);
            most = x > most ? x : most;
            least = ((x < least) & (x > -infinite)) ? x : least;
            good &= (vi)(x < infinite);
        }
        peak_ = most[0], lowest_ = least[0];
        bool all = good[0];
        for (int i = 1; i < VL; i++)
            peak_ = std::max(peak_, most[i]), lowest_ = std::min(lowest_, least[i]), all = all && good[i];
        return all;
    }

    // e^((x − peak) / temperature) of each, their sums by stretches, and the sum of all.
    double weigh(double temperature) {
        const vf scale = broadcast((float)(1 / temperature)), peak = broadcast(peak_), least = broadcast(-87.0f), none{};
        sums_.assign(padded() / STRETCH, 0.0);
        double total = 0;
        for (int s = 0; s < (int)sums_.size(); s++) {
            vf sum_of{};
            for (int i = s * STRETCH; i < (s + 1) * STRETCH; i += VL) {
                const vf power = (load(x_.data() + i) - peak) * scale;
                const vf weight = power < least ? none : exponential(power);
                store(weights_.data() + i, weight);
                sum_of = sum_of + weight;
            }
            total += sums_[s] = sum(sum_of);
        }
        return total;
    }

    // The sum of the weights of all that are not less than `edge`.
    double weight_from(float edge) const {
        const vf least = broadcast(edge), none{};
        double total = 0;
        for (int s = 0; s < padded(); s += STRETCH) {
            vf part{};
            for (int i = s; i < s + STRETCH; i += VL) part = part + (load(x_.data() + i) >= least ? load(weights_.data() + i) : none);
            total += sum(part);
        }
        return total;
    }

    // Keeps the largest until their `weights_` reach `goal`; with `equals`, what is as large as the last of them too. The edge is
    // enclosed by halving, so that only the few between `low` and `high` are sorted.
    void cut(double goal, bool equals) {
        float low = lowest_, high = std::nextafter(peak_, INFINITY);
        goal = std::min(goal, weight_from(low));
        for (int halved = 0; halved < HALVINGS; halved++) {
            const float middle = low + (high - low) * 0.5f;
            if (!(middle > low && middle < high)) break;
            (weight_from(middle) >= goal ? low : high) = middle;
        }
        between_.clear();
        for (int i = 0; i < count_; i++)
            if (x_[i] >= low && x_[i] < high) between_.emplace_back(x_[i], weights_[i]);
        std::sort(between_.begin(), between_.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
        size_t kept = 0;
        for (double reached = weight_from(high); kept < between_.size();) {
            reached += between_[kept++].second;
            if (reached >= goal) break;
        }
        const float edge = between_[kept - 1].first;
        int beyond = 0;
        while (!equals && kept < between_.size() && between_[kept].first == edge) kept++, beyond++;
        keep(edge, beyond);
    }

    // Those not less than `edge`, without the last `beyond` of those equal to it.
    void keep(float edge, int beyond) {
        int kept = 0;
        const vf least = broadcast(edge);
        for (int s = 0; s < padded(); s += STRETCH) {
            vi any{};
            for (int i = s; i < s + STRETCH; i += VL) any |= (vi)(load(x_.data() + i) >= least);
            bool some = false;
            for (int lane = 0; lane < VL; lane++) some |= any[lane] != 0;
            for (int i = s; some && i < s + STRETCH; i++) {  // without a branch, which could not be foretold
                const float x = x_[i];
                x_[kept] = x, ids_[kept] = ids_[i];
                kept += x >= edge;
            }
        }
        for (int i = kept - 1; beyond > 0; i--)
            if (x_[i] == edge) {
                std::copy(x_.begin() + i + 1, x_.begin() + kept, x_.begin() + i);
                std::copy(ids_.begin() + i + 1, ids_.begin() + kept, ids_.begin() + i);
                kept--, beyond--;
            }
        count_ = kept;
        std::fill(x_.begin() + count_, x_.begin() + padded(), -INFINITY);
    }

    std::vector<float> x_, weights_;
    std::vector<int32_t> ids_;
    std::vector<double> sums_;
    std::vector<std::pair<float, float>> between_;  // logits and weights
    float peak_ = 0, lowest_ = 0;
    int count_ = 0;
};

inline int32_t draw(const float* logits, int count, const Draw& d, const int32_t* banned, int banned_count) {
    thread_local Candidates c;  // its room is used again
    if (!c.begin(logits, count, d, banned, banned_count)) return -1;
    if (d.temperature < COLDEST) return c.first_largest();
    if (d.rwkv_order) {
        c.top_p(d.top_p, 1, true);
        c.top_k(d.top_k);
        c.min_p(d.min_p, 1);
    } else {
        c.top_k(d.top_k);
        c.top_p(d.top_p, d.temperature, false);
        c.min_p(d.min_p, d.temperature);
    }
    return c.draw(d.temperature, d.uniform);
}

}  // namespace
