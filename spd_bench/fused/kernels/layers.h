// Whole attention layers (§6.2, §6.3, §6.5), in two forms: of few queries by rows, since they cost little more than
// reading the weights, of many by panels.
//
// In a panel the queries lie side by side and their channels below each other: [channels][panel]. Weights are read as they
// are, LayerNorm and GELU go along the queries.

#pragma once

#include "attention.h"
#include "products.h"
#include "scratch.h"
#include "small.h"

namespace {

constexpr int64_t few = 8;  // items up to which a layer goes by rows
constexpr int64_t panels_at_once = 4;

// W x + b of every item. Rows of W go by outermost: each is read once, after it has been fetched.
template <class T>
void linear(int64_t items, int64_t channels, int64_t rows, const T* x, int64_t x_step, const T* weight, const T* bias,
            T* out, int64_t out_step) {
    using W = Wide<T>;
    constexpr int64_t ahead = 2 * together;
    for (int64_t row = 0; row < rows; row += together) {
        for (int64_t c = 0; c < together * channels && row + ahead < rows; c += 64 / sizeof(T))
            __builtin_prefetch(weight + (row + ahead) * channels + c);
        for (int64_t item = 0; item < items; ++item) {
            typename W::V sum[together] = {};
            for (int64_t c = 0; c < channels; c += W::lanes) {
                const typename W::V at = W::load(x + item * x_step + c);
                for (int i = 0; i < together; ++i) sum[i] += W::load(weight + (row + i) * channels + c) * at;
            }
            T total[together];
            sums_of_four<T>(sum, total);
            for (int i = 0; i < together; ++i) out[item * out_step + row + i] = total[i] + bias[row + i];
        }
    }
}

// Σ weight · row, all of `size` channels, added to `to`.
template <class T>
void weighted_sum(int64_t count, int64_t size, const T* weight, const T* rows, T* to) {
    using W = Wide<T>;
    int64_t c = 0;
    const auto columns = [&](auto vectors) {
        constexpr int some = decltype(vectors)::value;
        typename W::V sum[some];
        for (int v = 0; v < some; ++v) sum[v] = W::load(to + c + v * W::lanes);
        for (int64_t i = 0; i < count; ++i)
            for (int v = 0; v < some; ++v) sum[v] += weight[i] * W::load(rows + i * size + c + v * W::lanes);
        for (int v = 0; v < some; ++v) W::store(to + c + v * W::lanes, sum[v]);
        c += some * W::lanes;
    };
    while (c + 6 * W::lanes <= size) columns(std::integral_constant<int, 6>{});
    while (c + W::lanes <= size) columns(std::integral_constant<int, 1>{});
    for (; c < size; ++c)
        for (int64_t i = 0; i < count; ++i) to[c] += weight[i] * rows[i * size + c];
}

// Rows of D channels become panels, with zeros where there is no item.
template <class T>
void to_panels(int64_t items, const T* rows, T* panels) {
    for (int64_t first = 0; first < items; first += panel<T>, panels += CORE * panel<T>)
        for (int64_t c = 0; c < CORE; ++c)
            for (int64_t i = 0; i < panel<T>; ++i)
                panels[c * panel<T> + i] = first + i < items ? rows[(first + i) * CORE + c] : T(0);
}

template <class T>
void from_panels(int64_t items, const T* panels, T* rows) {
    for (int64_t first = 0; first < items; first += panel<T>, panels += CORE * panel<T>)
        for (int64_t i = 0; i < std::min<int64_t>(panel<T>, items - first); ++i)
            for (int64_t c = 0; c < CORE; ++c) rows[(first + i) * CORE + c] = panels[c * panel<T> + i];
}

// LayerNorm of the queries of panels.
template <class T>
void norm_panels(int64_t count, const T* from, const T* weight, const T* bias, T* to) {
    using W = Wide<T>;
    using V = typename W::V;
    for (int64_t half = 0; half < 2 * count; ++half) {
        const int64_t begin = half / 2 * CORE * panel<T> + half % 2 * W::lanes;
        V mean = {}, squares = {};
        for (int64_t c = 0; c < CORE; ++c) mean += W::load(from + begin + c * panel<T>);
        mean = mean / T(CORE);
        for (int64_t c = 0; c < CORE; ++c) {
            const V apart = W::load(from + begin + c * panel<T>) - mean;
            squares += apart * apart;
        }
        V scale;
        for (int i = 0; i < W::lanes; ++i) scale[i] = 1 / std::sqrt(squares[i] / CORE + T(LAYER_NORM_EPSILON));
        for (int64_t c = 0; c < CORE; ++c)
            W::store(to + begin + c * panel<T>,
                     (W::load(from + begin + c * panel<T>) - mean) * scale * weight[c] + bias[c]);
    }
}

// use(c, i, sums): channel c of W x + b, of the queries from i on.
template <class T, class Use>
void project(int64_t panels, int64_t rows, int64_t channels, const T* weight, const T* bias, const T* x, Use use) {
    products<T>(rows, panels * panel<T>, channels, weight, channels, x, panel<T>, channels * panel<T>,
                [&](int64_t row, int64_t column, typename Wide<T>::V sum) { use(row, column, sum + bias[row]); });
}
// Where a vector lies in panels of so many channels.
template <class T>
int64_t place(int64_t channels, int64_t row, int64_t column) {
    return (column / panel<T> * channels + row) * panel<T> + column % panel<T>;
}

// What both kinds of attention layer have before and after their attention, in the order of `layers.py`.
template <class T>
struct Layer {
    using W = Wide<T>;
    using V = typename W::V;
    const T *query_norm_weight, *query_norm_bias, *query_weight, *query_bias, *out_weight, *out_bias, *norm_weight,
        *norm_bias, *wide_weight, *wide_bias, *narrow_weight, *narrow_bias;

    // Few items, and rows of whole vectors.
    static bool goes_by_rows(int64_t items, int64_t hidden) { return items <= few && hidden % W::lanes == 0; }

    // by rows

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
        linear(items, CORE, CORE, x.data(), CORE, query_weight, query_bias, query.data(), CORE);
        return query;
    }
    // h + W_O read, then h + FFN(LN_ff(h))
    void finish(int64_t items, int64_t hidden, const T* h, const std::vector<T>& read, T* out) const {
        linear(items, CORE, CORE, read.data(), CORE, out_weight, out_bias, out, CORE);
        for (int64_t i = 0; i < items * CORE; ++i) out[i] += h[i];
        std::vector<T> narrow = normed(items, out, norm_weight, norm_bias), wide(items * hidden);
        linear(items, CORE, hidden, narrow.data(), CORE, wide_weight, wide_bias, wide.data(), hidden);
        gelu_in_place(0, items, hidden, wide.data());
        linear(items, hidden, CORE, wide.data(), hidden, narrow_weight, narrow_bias, narrow.data(), CORE);
        for (int64_t i = 0; i < items * CORE; ++i) out[i] += narrow[i];
    }

    // by panels

    // The items [first, last) in groups: read(first, count, query, out) is the attention of some of them, W_Q LN(h) and
    // what is read both as rows.
    template <class Read>
    void by_panels(int64_t first, int64_t last, int64_t hidden, const T* h, T* out, Read read) const {
        constexpr int64_t group = panels_at_once * panel<T>;
        const int64_t most = std::min((last - first + panel<T> - 1) / panel<T> * panel<T>, group);
        const Scratch<T> stream(most * CORE), x(most * CORE), y(most * CORE), rows(most * CORE), wide(most * hidden);
        for (; first < last; first += group) {
            const int64_t items = std::min(group, last - first), panels = (items + panel<T> - 1) / panel<T>;
            to_panels<T>(items, h + first * CORE, stream);
            norm_panels<T>(panels, stream, query_norm_weight, query_norm_bias, x);
            project<T>(panels, CORE, CORE, query_weight, query_bias, x,
                       [&](int64_t c, int64_t i, V sum) { W::store(y + place<T>(CORE, c, i), sum); });
            from_panels<T>(items, y, rows);
            read(first, items, static_cast<const T*>(rows), static_cast<T*>(x));
            to_panels<T>(items, x, y);
            project<T>(panels, CORE, CORE, out_weight, out_bias, y, [&](int64_t c, int64_t i, V sum) {
                T* to = stream + place<T>(CORE, c, i);
                W::store(to, W::load(to) + sum);
            });
            norm_panels<T>(panels, stream, norm_weight, norm_bias, x);
            project<T>(panels, hidden, CORE, wide_weight, wide_bias, x,
                       [&](int64_t c, int64_t i, V sum) { W::store(wide + place<T>(hidden, c, i), gelu<T>(sum)); });
            project<T>(panels, CORE, hidden, narrow_weight, narrow_bias, wide, [&](int64_t c, int64_t i, V sum) {
                T* to = stream + place<T>(CORE, c, i);
                W::store(to, W::load(to) + sum);
            });
            from_panels<T>(items, stream, out + first * CORE);
        }
    }
};

// W_2 GELU(W_1 h + b_1) + b_2, rows of D channels to rows of so many outputs.
template <class T>
void perceptron(int64_t first, int64_t last, int64_t hidden, int64_t outputs, const T* wide_weight, const T* wide_bias,
                const T* narrow_weight, const T* narrow_bias, const T* h, T* out) {
    using W = Wide<T>;
    constexpr int64_t group = panels_at_once * panel<T>;
    const int64_t most = std::min((last - first + panel<T> - 1) / panel<T> * panel<T>, group);
    const Scratch<T> x(most * CORE), wide(most * hidden);
    for (; first < last; first += group) {
        const int64_t items = std::min(group, last - first), panels = (items + panel<T> - 1) / panel<T>;
        to_panels<T>(items, h + first * CORE, x);
        project<T>(panels, hidden, CORE, wide_weight, wide_bias, x, [&](int64_t c, int64_t i, typename W::V sum) {
            W::store(wide + place<T>(hidden, c, i), gelu<T>(sum));
        });
        project<T>(panels, outputs, hidden, narrow_weight, narrow_bias, wide,
                   [&](int64_t c, int64_t i, typename W::V sum) {
                       for (int64_t j = 0; j < std::min<int64_t>(W::lanes, items - i); ++j)
                           out[(first + i + j) * outputs + c] = sum[j];
                   });
    }
}

// layers.TokenAttentionLayer; key [N, E, D], value [N, E, D] and shift [N, E] are `Absorbed`.
template <class T>
void token_layer(int64_t first, int64_t last, int64_t parts, const T* const* tokens, const int64_t* count,
                 int64_t hidden, const Layer<T>& layer, const T* key, const T* value, const T* shift, const T* h,
                 T* out) {
    using W = Wide<T>;
    using V = typename W::V;
    Tokens<T> of(first, parts, tokens, count);
    if (layer.goes_by_rows(last - first, hidden)) {
        const int64_t items = last - first;
        const std::vector<T> query = layer.query(items, h + first * CORE);
        std::vector<T> absorbed(items * HEADS * CORE), mixed(items * HEADS * CORE), read(items * CORE);
        for (int64_t head = 0; head < HEADS; ++head)
            for (int64_t item = 0; item < items; ++item)
                weighted_sum(WIDTH, CORE, &query[item * CORE + head * WIDTH], key + head * WIDTH * CORE,
                             &absorbed[(item * HEADS + head) * CORE]);
        of.attend(items, absorbed.data(), mixed.data(), false);
        for (int64_t head = 0; head < HEADS; ++head)
            linear(items, CORE, WIDTH, &mixed[head * CORE], HEADS * CORE, value + head * WIDTH * CORE,
                   shift + head * WIDTH, &read[head * WIDTH], CORE);
        layer.finish(items, hidden, h + first * CORE, read, out + first * CORE);
        return;
    }
    const Scratch<T> absorbed(panel<T> * HEADS * CORE), mixed(panel<T> * HEADS * CORE), by_channel(CORE * CORE);
    for (int64_t head = 0; head < HEADS; ++head)
        for (int64_t c = 0; c < CORE; ++c)
            for (int64_t e = 0; e < WIDTH; ++e)
                by_channel[(head * CORE + c) * WIDTH + e] = value[(head * WIDTH + e) * CORE + c];
    layer.by_panels(first, last, hidden, h, out, [&](int64_t begin, int64_t items, const T* query, T* read) {
        for (int64_t start = 0; start < items; start += panel<T>) {
            const int64_t some = std::min<int64_t>(panel<T>, items - start);
            for (int64_t head = 0; head < HEADS; ++head)
                products<T>(some, CORE, WIDTH, query + start * CORE + head * WIDTH, CORE, key + head * WIDTH * CORE, CORE,
                         [&](int64_t item, int64_t c, V sum) {
                             W::store(absorbed + (item * HEADS + head) * CORE + c, sum);
                         });
            of.attend(some, absorbed, mixed, begin + start + some < last);
            for (int64_t head = 0; head < HEADS; ++head)
                products<T>(some, WIDTH, CORE, mixed + head * CORE, HEADS * CORE, by_channel + head * CORE * WIDTH, WIDTH,
                         [&](int64_t item, int64_t e, V sum) {
                             const int64_t c = head * WIDTH + e;
                             W::store(read + (start + item) * CORE + c, sum + W::load(shift + c));
                         });
        }
    });
}

// layers.SiteAttentionLayer; key [B, N, E, S], value [B, N, S, E]; weights, the mean of all heads' [items, S].
template <class T>
void site_layer(int64_t first, int64_t last, int64_t items_per_image, int64_t sites, int64_t hidden,
                const Layer<T>& layer, const T* added_query, const T* key, const T* value, const T* h, T* out,
                T* weights) {
    using W = Wide<T>;
    using V = typename W::V;
    const T scale = 1 / std::sqrt(T(WIDTH));
    const int64_t room = (sites + panel<T> - 1) / panel<T> * panel<T>;
    const auto average = [&](int64_t item, int64_t head, const T* score) {
        T* const mean = weights + item * sites;
        for (int64_t s = 0; s < sites; ++s) mean[s] = (head ? mean[s] : 0) + score[s];
        for (int64_t s = 0; s < sites && head == HEADS - 1; ++s) mean[s] /= HEADS;
    };
    if (layer.goes_by_rows(last - first, hidden)) {
        const int64_t items = last - first;
        std::vector<T> query = layer.query(items, h + first * CORE), read(items * CORE), score(room);
        if (added_query)
            for (int64_t i = 0; i < items * CORE; ++i) query[i] += added_query[first * CORE + i];
        for (int64_t i = 0; i < items * CORE; ++i) query[i] *= scale;
        for (int64_t item = 0; item < items; ++item)
            for (int64_t head = 0; head < HEADS; ++head) {
                const int64_t of = (first + item) / items_per_image * HEADS + head;
                std::fill(score.begin(), score.end(), T(0));
                weighted_sum(WIDTH, sites, &query[item * CORE + head * WIDTH], key + of * WIDTH * sites, score.data());
                softmax_in_place(sites, room, T(1), score.data());
                average(first + item, head, score.data());
                weighted_sum(sites, WIDTH, score.data(), value + of * sites * WIDTH, &read[item * CORE + head * WIDTH]);
            }
        layer.finish(items, hidden, h + first * CORE, read, out + first * CORE);
        return;
    }
    const Scratch<T> score(panel<T> * room), wide_key(WIDTH * room), scaled(panel<T> * WIDTH);
    layer.by_panels(first, last, hidden, h, out, [&](int64_t begin, int64_t items, const T* query, T* read) {
        for (int64_t start = begin, some; start < begin + items; start += some) {
            // of one image
            some = std::min((start / items_per_image + 1) * items_per_image, begin + items) - start;
            some = std::min<int64_t>(some, panel<T>);
            for (int64_t head = 0; head < HEADS; ++head) {
                const int64_t of = start / items_per_image * HEADS + head;
                for (int64_t e = 0; e < WIDTH; ++e) {
                    std::copy_n(key + (of * WIDTH + e) * sites, sites, wide_key + e * room);
                    std::fill(wide_key + e * room + sites, wide_key + (e + 1) * room, T(0));
                }
                for (int64_t item = 0; item < some; ++item)
                    for (int64_t e = 0; e < WIDTH; ++e) {
                        const int64_t c = head * WIDTH + e;
                        const T added = added_query ? added_query[(start + item) * CORE + c] : T(0);
                        scaled[item * WIDTH + e] = (query[(start - begin + item) * CORE + c] + added) * scale;
                    }
                products<T>(some, room, WIDTH, scaled, WIDTH, wide_key, room,
                         [&](int64_t item, int64_t s, V sum) { W::store(score + item * room + s, sum); });
                for (int64_t item = 0; item < some; ++item) {
                    softmax_in_place(sites, room, T(1), score + item * room);
                    average(start + item, head, score + item * room);
                }
                products<T>(some, WIDTH, sites, score, room, value + of * sites * WIDTH, WIDTH,
                         [&](int64_t item, int64_t e, V sum) {
                             W::store(read + (start - begin + item) * CORE + head * WIDTH + e, sum);
                         });
            }
        }
    });
}

}  // namespace
