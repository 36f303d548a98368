// Whole attention layers (§6.2, §6.3, §6.5).

#pragma once

#include "attention.h"
#include "small.h"

namespace {

// W x + b of every item. Rows of W go by outermost: each is read once.
template <class T>
void linear(int64_t items, int64_t channels, int64_t rows, const T* x, const T* weight, const T* bias, T* out,
            int64_t out_step) {
    using W = Wide<T>;
    for (int64_t row = 0; row < rows; row += together)
        for (int64_t item = 0; item < items; ++item) {
            typename W::V sum[together] = {};
            for (int64_t c = 0; c < channels; c += W::lanes) {
                const typename W::V at = W::load(x + item * channels + c);
                for (int i = 0; i < together; ++i) sum[i] += W::load(weight + (row + i) * channels + c) * at;
            }
            T total[together];
            sums_of_four<T>(sum, total);
            for (int i = 0; i < together; ++i) out[item * out_step + row + i] = total[i] + bias[row + i];
        }
}

// Σ weight · row, all of `size` channels, added to `to`.
template <class T>
void weighted_sum(int64_t count, int64_t size, const T* weight, const T* rows, T* to) {
    using W = Wide<T>;
    int64_t c = 0;
    for (; c + W::lanes <= size; c += W::lanes) {
        typename W::V sum = W::load(to + c);
        for (int64_t i = 0; i < count; ++i) sum += weight[i] * W::load(rows + i * size + c);
        W::store(to + c, sum);
    }
    for (; c < size; ++c)
        for (int64_t i = 0; i < count; ++i) to[c] += weight[i] * rows[i * size + c];
}

// What both kinds of attention layer have before and after their attention, in the order of `layers.py`.
template <class T>
struct Layer {
    const T *query_norm_weight, *query_norm_bias, *query_weight, *query_bias, *out_weight, *out_bias, *norm_weight,
        *norm_bias, *wide_weight, *wide_bias, *narrow_weight, *narrow_bias;

    static std::vector<T> normed(int64_t items, const T* h, const T* weight, const T* bias) {
        std::vector<T> x(items * CORE);
        for (int64_t item = 0; item < items; ++item) {
            auto row = Row<T>::load(h + item * CORE);
            row.standardise();
            row.scale_and_shift(weight, bias);
            row.store(&x[item * CORE]);
        }
        return x;
    }
    // W_Q LN(h)
    std::vector<T> query(int64_t items, const T* h) const {
        const auto x = normed(items, h, query_norm_weight, query_norm_bias);
        std::vector<T> query(items * CORE);
        linear(items, CORE, CORE, x.data(), query_weight, query_bias, query.data(), CORE);
        return query;
    }
    // h + W_O read, then h + FFN(LN_ff(h))
    void finish(int64_t items, int64_t hidden, const T* h, const std::vector<T>& read, T* out) const {
        linear(items, CORE, CORE, read.data(), out_weight, out_bias, out, CORE);
        for (int64_t i = 0; i < items * CORE; ++i) out[i] += h[i];
        std::vector<T> narrow = normed(items, out, norm_weight, norm_bias), wide(items * hidden);
        linear(items, CORE, hidden, narrow.data(), wide_weight, wide_bias, wide.data(), hidden);
        gelu_in_place(0, items, hidden, wide.data());
        linear(items, hidden, CORE, wide.data(), narrow_weight, narrow_bias, narrow.data(), CORE);
        for (int64_t i = 0; i < items * CORE; ++i) out[i] += narrow[i];
    }
};

// layers.TokenAttentionLayer; key [N, E, D], value [N, E, D] and shift [N, E] are `Absorbed`.
template <class T>
void token_layer(int64_t items, int64_t parts, const T* const* tokens, const int64_t* count, int64_t hidden,
                 const Layer<T>& layer, const T* key, const T* value, const T* shift, const T* h, T* out) {
    const std::vector<T> query = layer.query(items, h);
    std::vector<T> absorbed(HEADS * items * CORE), mixed(HEADS * items * CORE), read(items * CORE);
    for (int64_t head = 0; head < HEADS; ++head)
        for (int64_t item = 0; item < items; ++item)
            weighted_sum(WIDTH, CORE, &query[item * CORE + head * WIDTH], key + head * WIDTH * CORE,
                         &absorbed[(head * items + item) * CORE]);
    attend(0, items, items, parts, tokens, count, absorbed.data(), mixed.data());
    for (int64_t head = 0; head < HEADS; ++head)
        linear(items, CORE, WIDTH, &mixed[head * items * CORE], value + head * WIDTH * CORE, shift + head * WIDTH,
               &read[head * WIDTH], CORE);
    layer.finish(items, hidden, h, read, out);
}

// layers.SiteAttentionLayer; key [B, N, E, S], value [B, N, S, E], weights [B, N, items of an image, S].
template <class T>
void site_layer(int64_t items, int64_t items_per_image, int64_t sites, int64_t hidden, const Layer<T>& layer,
                const T* added_query, const T* key, const T* value, const T* h, T* out, T* weights) {
    using W = Wide<T>;
    std::vector<T> query = layer.query(items, h), read(items * CORE), score(sites + W::lanes);
    for (int64_t i = 0; i < items * CORE; ++i) query[i] = (query[i] + (added_query ? added_query[i] : 0)) / std::sqrt(T(WIDTH));
    for (int64_t item = 0; item < items; ++item)
        for (int64_t head = 0; head < HEADS; ++head) {
            const int64_t of = item / items_per_image * HEADS + head;
            std::fill(score.begin(), score.end(), T(0));
            weighted_sum(WIDTH, sites, &query[item * CORE + head * WIDTH], key + of * WIDTH * sites, score.data());
            T most = score[0];
            for (int64_t s = 1; s < sites; ++s) most = score[s] > most ? score[s] : most;
            for (int64_t s = sites; s < sites + W::lanes; ++s) score[s] = -INFINITY;
            typename W::V sums = {};
            for (int64_t s = 0; s < sites; s += W::lanes) {
                const auto raised = exponential<T>(W::load(&score[s]) - most);
                W::store(&score[s], raised);
                sums += raised;
            }
            const T one = 1 / W::sum(sums);
            T* weight = weights + (of * items_per_image + item % items_per_image) * sites;
            for (int64_t s = 0; s < sites; ++s) weight[s] = score[s] * one;
            weighted_sum(sites, WIDTH, weight, value + of * sites * WIDTH, &read[item * CORE + head * WIDTH]);
        }
    layer.finish(items, hidden, h, read, out);
}

}  // namespace
