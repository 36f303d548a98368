// B4: the conditioning of an anchor, and its deformable read (§6.4).

#pragma once

#include "vectors.h"

namespace {

// LN(GELU(of_query + of_site[site] + W φ(p - q))) of every anchor; φ by the angle-difference identities from the codes
// [sin x | cos x | sin y | cos y] of sites and queries, F frequencies each. The weights are [4 F, D].
template <class T>
void condition(int64_t first, int64_t last, int64_t anchors, int64_t queries_per_image, int64_t sites, int64_t freq,
               const int64_t* site, const T* of_query, const T* of_site, const T* query_code, const T* site_code,
               const T* weight, const T* norm_weight, const T* norm_bias, T* out) {
    using W = Wide<T>;
    constexpr int together = 2;  // anchors that share a load of the weights
    std::vector<T> code(together * 4 * freq);
    for (int64_t query = first; query < last; ++query) {
        const T* q = query_code + query * 4 * freq;
        const T* of_image = of_site + (query / queries_per_image) * sites * CORE;
        for (int64_t r = 0; r < anchors; r += together) {
            Row<T> row[together];
            const int used = int(std::min<int64_t>(together, anchors - r));
            for (int i = 0; i < together; ++i) {
                const int64_t s = site[query * anchors + r + std::min(i, used - 1)];
                row[i] = Row<T>::load(of_query + query * CORE);
                row[i].add(of_image + s * CORE);
                const T* p = site_code + s * 4 * freq;
                T* difference = code.data() + i * 4 * freq;
                for (int64_t axis = 0; axis < 4 * freq; axis += 2 * freq)
                    for (int64_t f = axis; f < axis + freq; ++f) {
                        difference[f] = p[f] * q[f + freq] - p[f + freq] * q[f];
                        difference[f + freq] = p[f + freq] * q[f + freq] + p[f] * q[f];
                    }
            }
            for (int64_t f = 0; f < 4 * freq; ++f)
                for (int b = 0; b < Row<T>::blocks; ++b) {
                    const typename W::V w = W::load(weight + f * CORE + b * W::lanes);
                    for (int i = 0; i < together; ++i) row[i].part[b] += code[i * 4 * freq + f] * w;
                }
            for (int i = 0; i < used; ++i) {
                row[i].apply_gelu();
                row[i].standardise();
                for (int b = 0; b < Row<T>::blocks; ++b)
                    row[i].part[b] = row[i].part[b] * W::load(norm_weight + b * W::lanes) +
                                     W::load(norm_bias + b * W::lanes);
                row[i].store(out + (query * anchors + r + i) * CORE);
            }
        }
    }
}

// The items, those of an image by their site.
inline std::vector<int64_t> by_site(int64_t first, int64_t last, int64_t items_per_image, const int64_t* site) {
    std::vector<int64_t> order(last - first), begin;
    for (int64_t start = first, end; start < last; start = end) {
        end = std::min(last, (start / items_per_image + 1) * items_per_image);
        begin.assign(*std::max_element(site + start, site + end) + 2, 0);
        for (int64_t item = start; item < end; ++item) ++begin[site[item] + 1];
        for (size_t s = 1; s < begin.size(); ++s) begin[s] += begin[s - 1];
        for (int64_t item = start; item < end; ++item) order[start - first + begin[site[item]]++] = item;
    }
    return order;
}

// Bilinear reads, one in each lane, at x and y in cells from the centre of the first one: row of the upper left cell, and
// fractions.
template <class T>
struct Bilinear {
    using W = Wide<T>;
    using I = typename W::I;
    using V = typename W::V;
    using Int = typename Of<T>::Int;
    I row;
    V fx, fy;

    Bilinear(V x, V y, const Int* stride, const Int* corner, const Int* most_row) {
        I column = __builtin_convertvector(x, I), line = __builtin_convertvector(y, I);
        column += x < __builtin_convertvector(column, V);  // towards zero becomes down: true is -1
        line += y < __builtin_convertvector(line, V);
        fx = x - __builtin_convertvector(column, V), fy = y - __builtin_convertvector(line, V);
        // NaN has no row: it takes a legal one, and reads NaN through its fractions
        const I at = line * W::load_whole(stride) + column + W::load_whole(corner);
        row = at_most(at_least(at, I{}), W::load_whole(most_row));
    }
};

// Sum over samples of softmax(score) times a bilinear read, each head in its own E channels (geometry.Stack).
template <class T>
void levels_read(int64_t first, int64_t last, int64_t samples, const T* const* rows, const int64_t* rows_per_map,
                 int64_t items_per_image, const T* level, const int32_t* places, const int64_t* site, const T* site_xy,
                 const T* dx, const T* dy, int64_t item_step, int64_t step, const T* score, int64_t score_step, T* out) {
    using W = Wide<T>;
    using V = typename W::V;
    using Int = typename Of<T>::Int;
    constexpr int blocks = WIDTH / W::lanes;
    const int64_t total = HEADS * samples, padded = (total + W::lanes - 1) / W::lanes * W::lanes;
    // what depends on the sample alone: cells per image, reach, row stride, first and last row of its level
    std::vector<T> constant(4 * padded), work(8 * padded);
    std::vector<Int> whole(4 * padded);
    std::vector<const T*> map(samples);
    T *scale_x = constant.data(), *scale_y = scale_x + padded, *right = scale_y + padded, *bottom = right + padded;
    T *x_at = work.data(), *y_at = x_at + padded, *share = y_at + padded, *ul = share + padded, *ur = ul + padded,
      *ll = ur + padded, *lr = ll + padded;
    Int *stride = whole.data(), *corner = stride + padded, *most_row = corner + padded, *row = most_row + padded;
    for (int64_t t = 0; t < total; ++t) {
        const int64_t s = t % samples;
        scale_x[t] = level[s], scale_y[t] = level[samples + s];
        right[t] = level[2 * samples + s], bottom[t] = level[3 * samples + s];
        stride[t] = places[s], corner[t] = places[samples + s], most_row[t] = places[2 * samples + s];
    }
    const auto order = by_site(first, last, items_per_image, site);
    for (size_t i = 0; i < order.size(); ++i) {
        const int64_t item = order[i];
        if (i + 2 < order.size())
            for (int64_t c = 0; c < total; c += 64 / sizeof(T)) {
                __builtin_prefetch(dx + order[i + 2] * item_step + c * step);
                __builtin_prefetch(dy + order[i + 2] * item_step + c * step);
                __builtin_prefetch(score + order[i + 2] * score_step + c);
            }
        const T x0 = site_xy[2 * site[item]], y0 = site_xy[2 * site[item] + 1];
        const T *ddx = dx + item * item_step, *ddy = dy + item * item_step;
        for (int64_t t = 0; t < total; ++t) x_at[t] = ddx[t * step], y_at[t] = ddy[t * step];
        for (int head = 0; head < HEADS; ++head) {
            const T* a = score + item * score_step + head * samples;
            T most = a[0];
            for (int64_t s = 1; s < samples; ++s) most = a[s] > most ? a[s] : most;
            for (int64_t s = 0; s < samples; ++s) share[head * samples + s] = a[s] - most;
        }
        for (int64_t t = 0; t < padded; t += W::lanes) W::store(share + t, exponential<T>(W::load(share + t)));
        for (int head = 0; head < HEADS; ++head) {
            T sum = 0;
            for (int64_t s = 0; s < samples; ++s) sum += share[head * samples + s];
            const T one = 1 / sum;
            for (int64_t s = 0; s < samples; ++s) share[head * samples + s] *= one;
        }
        for (int64_t t = 0; t < padded; t += W::lanes) {
            V x = W::load(x_at + t) + x0 * W::load(scale_x + t), y = W::load(y_at + t) + y0 * W::load(scale_y + t);
            x = at_most(at_least(x, W::all(T(-0.5))), W::load(right + t));
            y = at_most(at_least(y, W::all(T(-0.5))), W::load(bottom + t));
            const Bilinear<T> of(x - T(0.5), y - T(0.5), stride + t, corner + t, most_row + t);
            W::store_whole(row + t, of.row);
            const V a = W::load(share + t), lower = a * of.fy, upper = a - lower;
            const V upper_right = upper * of.fx, lower_right = lower * of.fx;
            W::store(ur + t, upper_right);
            W::store(ul + t, upper - upper_right);
            W::store(lr + t, lower_right);
            W::store(ll + t, lower - lower_right);
        }
        for (int64_t s = 0; s < samples; ++s) map[s] = rows[s] + item / items_per_image * rows_per_map[s] * CORE;
        for (int head = 0; head < HEADS; ++head) {
            V sum_ul[blocks] = {}, sum_ur[blocks] = {}, sum_ll[blocks] = {}, sum_lr[blocks] = {};
            for (int64_t t = head * samples; t < (head + 1) * samples; ++t) {
                const T* up = map[t - head * samples] + int64_t(row[t]) * CORE + head * WIDTH;
                const T* down = up + int64_t(stride[t]) * CORE;
                for (int b = 0; b < blocks; ++b) {
                    const int c = b * W::lanes;
                    sum_ul[b] += ul[t] * W::load(up + c);
                    sum_ur[b] += ur[t] * W::load(up + CORE + c);
                    sum_ll[b] += ll[t] * W::load(down + c);
                    sum_lr[b] += lr[t] * W::load(down + CORE + c);
                }
            }
            for (int b = 0; b < blocks; ++b)
                W::store(out + item * CORE + head * WIDTH + b * W::lanes,
                         (sum_ul[b] + sum_ur[b]) + (sum_ll[b] + sum_lr[b]));
        }
    }
}

}  // namespace
