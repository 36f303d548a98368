// B4: the conditioning of an anchor, and its deformable read (§6.4).

#pragma once

#include "products.h"
#include "scratch.h"

namespace {

// LN(GELU(of_query + of_site[site] + W φ(p - q))) of anchors; φ by the angle-difference identities from the codes
// [sin x | cos x | sin y | cos y] of sites and queries, F frequencies each. The weights are [4 F, D].
template <class T>
struct Conditioning {
    int64_t anchors, queries_per_image, sites, freq;
    const int64_t* site;
    const T *of_query, *of_site, *query_code, *site_code, *weight, *norm_weight, *norm_bias;

    // Of `count` items, each an anchor of a query, to rows of `to`. code: room for 4 F numbers of each.
    void operator()(int64_t count, const int64_t* items, T* code, T* to) const {
        using W = Wide<T>;
        for (int64_t i = 0; i < count; ++i) {
            const T *q = query_code + items[i] / anchors * 4 * freq, *p = site_code + site[items[i]] * 4 * freq;
            T* difference = code + i * 4 * freq;
            for (int64_t axis = 0; axis < 4 * freq; axis += 2 * freq)
                for (int64_t f = axis; f < axis + freq; ++f) {
                    difference[f] = p[f] * q[f + freq] - p[f + freq] * q[f];
                    difference[f + freq] = p[f + freq] * q[f + freq] + p[f] * q[f];
                }
        }
        products<T>(count, CORE, 4 * freq, code, 4 * freq, weight, CORE,
                    [&](int64_t i, int64_t c, typename W::V sum) { W::store(to + i * CORE + c, sum); });
        for (int64_t i = 0; i < count; ++i) {
            const int64_t query = items[i] / anchors;
            Row<T> row = Row<T>::load(to + i * CORE);
            row.add(of_query + query * CORE);
            row.add(of_site + (query / queries_per_image * sites + site[items[i]]) * CORE);
            row.apply_gelu();
            row.standardise();
            row.scale_and_shift(norm_weight, norm_bias);
            row.store(to + i * CORE);
        }
    }
};

template <class T>
void condition(int64_t first, int64_t last, const Conditioning<T>& conditioning, T* out) {
    const Scratch<T> code(rows_at_once * 4 * conditioning.freq);
    int64_t items[rows_at_once];
    for (int64_t item = first; item < last; item += rows_at_once) {
        const int64_t count = std::min<int64_t>(rows_at_once, last - item);
        for (int64_t i = 0; i < count; ++i) items[i] = item + i;
        conditioning(count, items, code, out + item * CORE);
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

// Sums over samples of softmax(score) times a bilinear read, each head in its own E channels (geometry.Stack), of a few
// items at a time: what to read is worked out for all of them first, then they read head by head. What one head of
// neighbouring items reads stays in the nearest cache, what all heads read does not.
template <class T>
class Reader {
    using W = Wide<T>;
    using V = typename W::V;
    using Int = typename Of<T>::Int;
    // shares of a head that sum up to less have lost digits, measured by the largest score of all heads
    static constexpr T too_small = sizeof(T) == 8 ? 1e-260 : 1e-26;

   public:
    static constexpr int64_t at_once = 32;

   private:
    int64_t samples, total, padded;
    const T* const* rows;
    const int64_t* rows_per_map;
    // what depends on the sample alone: cells per image, reach, row stride, first and last row of its level
    Scratch<T> constant;
    Scratch<Int> whole;
    // of each item: shares of the four cells, and the row of the upper left one; 1 / the sum of each head's shares
    Scratch<T> shares, inverse;
    Scratch<Int> row;
    int64_t images[at_once];
    T *scale_x, *scale_y, *right, *bottom;
    Int *stride, *corner, *most_row;

   public:
    Reader(int64_t samples, const T* const* rows, const int64_t* rows_per_map, const T* level, const int32_t* places)
        : samples(samples),
          total(HEADS * samples),
          padded((total + W::lanes - 1) / W::lanes * W::lanes),
          rows(rows),
          rows_per_map(rows_per_map),
          constant(4 * padded),
          whole(3 * padded),
          shares(at_once * 4 * padded),
          inverse(at_once * HEADS),
          row(at_once * padded) {
        scale_x = constant, scale_y = scale_x + padded, right = scale_y + padded, bottom = right + padded;
        stride = whole, corner = stride + padded, most_row = corner + padded;
        for (int64_t t = 0; t < padded; ++t) {
            const int64_t s = t % samples;
            scale_x[t] = level[s], scale_y[t] = level[samples + s];
            right[t] = level[2 * samples + s], bottom[t] = level[3 * samples + s];
            stride[t] = places[s], corner[t] = places[samples + s], most_row[t] = places[2 * samples + s];
        }
    }
    // What item `i` of these reads, at a point of an image, with offsets and scores of all samples and as many numbers
    // behind them as a vector has.
    void find(int64_t i, int64_t image, const T* at, const T* dx, const T* dy, const T* score) {
        images[i] = image;
        T* const ul = shares + i * 4 * padded;
        T *const ur = ul + padded, *const ll = ur + padded, *const lr = ll + padded;
        softmax(score, ul, inverse + i * HEADS);
        for (int64_t t = 0; t < padded; t += W::lanes) {
            V x = W::load(dx + t) + at[0] * W::load(scale_x + t), y = W::load(dy + t) + at[1] * W::load(scale_y + t);
            x = at_most(at_least(x, W::all(T(-0.5))), W::load(right + t));
            y = at_most(at_least(y, W::all(T(-0.5))), W::load(bottom + t));
            const Bilinear<T> of(x - T(0.5), y - T(0.5), stride + t, corner + t, most_row + t);
            W::store_whole(row + i * padded + t, of.row);
            const V a = W::load(ul + t), lower = a * of.fy, upper = a - lower;
            const V upper_right = upper * of.fx, lower_right = lower * of.fx;
            W::store(ur + t, upper_right);
            W::store(ul + t, upper - upper_right);
            W::store(lr + t, lower_right);
            W::store(ll + t, lower - lower_right);
        }
        // what lies elsewhere than what the last item reads is fetched
        if (i > 0 && std::memcmp(row + i * padded, row + (i - 1) * padded, total * sizeof(Int)) == 0) return;
        for (int64_t t = 0; t < total; ++t) {
            const int64_t s = t % samples, down = stride[t];
            const T* up = rows[s] + (image * rows_per_map[s] + row[i * padded + t]) * CORE + t / samples * WIDTH;
            for (int64_t cell : {int64_t(0), int64_t(1), down, down + 1})
                for (int c = 0; c < WIDTH; c += 64 / sizeof(T)) __builtin_prefetch(up + cell * CORE + c, 0, 2);
        }
    }
    // out(i) is where item i of `count` goes.
    template <class Out>
    void read(int64_t count, Out out) const {
        constexpr int blocks = WIDTH / W::lanes;
        for (int head = 0; head < HEADS; ++head)
            for (int64_t i = 0; i < count; ++i) {
                const T* const ul = shares + i * 4 * padded;
                const T *const ur = ul + padded, *const ll = ur + padded, *const lr = ll + padded;
                const Int* const first = row + i * padded;
                V sum_ul[blocks] = {}, sum_ur[blocks] = {}, sum_ll[blocks] = {}, sum_lr[blocks] = {};
                for (int64_t s = 0, t = head * samples; s < samples; ++s, ++t) {
                    const T* up = rows[s] + (images[i] * rows_per_map[s] + first[t]) * CORE + head * WIDTH;
                    const T* down = up + int64_t(stride[t]) * CORE;
                    for (int b = 0; b < blocks; ++b) {
                        const int c = b * W::lanes;
                        sum_ul[b] += ul[t] * W::load(up + c);
                        sum_ur[b] += ur[t] * W::load(up + CORE + c);
                        sum_ll[b] += ll[t] * W::load(down + c);
                        sum_lr[b] += lr[t] * W::load(down + CORE + c);
                    }
                }
                T* const to = out(i) + head * WIDTH;
                for (int b = 0; b < blocks; ++b)
                    W::store(to + b * W::lanes,
                             ((sum_ul[b] + sum_ur[b]) + (sum_ll[b] + sum_lr[b])) * inverse[i * HEADS + head]);
            }
    }

   private:
    // e^(score - the largest of all heads), and 1 / the sum of each head's: a quotient that does not depend on what was
    // subtracted, but where all of a head's are too small.
    void softmax(const T* score, T* share, T* one) const {
        V highest = W::all(-INFINITY);
        for (int64_t t = 0; t < total; t += W::lanes) {
            V here = W::load(score + t);
            for (int64_t i = total - t; i < W::lanes; ++i) here[i] = -INFINITY;
            highest = at_least(highest, here);
        }
        T most = highest[0];
        for (int i = 1; i < W::lanes; ++i) most = highest[i] > most ? T(highest[i]) : most;
        for (int64_t t = 0; t < padded; t += W::lanes)
            W::store(share + t, exponential<T>(at_most(W::load(score + t) - most, V{})));
        for (int head = 0; head < HEADS; ++head) {
            T* const of = share + head * samples;
            T sum = 0;
            for (int64_t s = 0; s < samples; ++s) sum += of[s];
            if (!(sum >= too_small)) {
                const T* const own = score + head * samples;
                most = own[0], sum = 0;
                for (int64_t s = 1; s < samples; ++s) most = own[s] > most ? own[s] : most;
                for (int64_t s = 0; s < samples; ++s) sum += of[s] = std::exp(own[s] - most);
            }
            one[head] = 1 / sum;
        }
    }
};

// Reads at given offsets with given scores.
template <class T>
void levels_read(int64_t first, int64_t last, int64_t samples, const T* const* rows, const int64_t* rows_per_map,
                 const T* level, const int32_t* places, int64_t items_per_image, const int64_t* site, const T* site_xy,
                 const T* dx, const T* dy, int64_t item_step, int64_t step, const T* score, int64_t score_step, T* out) {
    constexpr int64_t at_once = Reader<T>::at_once;
    const int64_t total = HEADS * samples, room = total + Wide<T>::lanes;
    Reader<T> reader(samples, rows, rows_per_map, level, places);
    const Scratch<T> given(3 * room);
    T *const x = given, *const y = x + room, *const a = y + room;
    const auto order = by_site(first, last, items_per_image, site);
    for (int64_t start = 0; start < last - first; start += at_once) {
        const int64_t* items = order.data() + start;
        const int64_t count = std::min(at_once, last - first - start);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t item = items[i];
            for (int64_t t = 0; t < total; ++t)
                x[t] = dx[item * item_step + t * step], y[t] = dy[item * item_step + t * step];
            std::copy_n(score + item * score_step, total, a);
            reader.find(i, item / items_per_image, site_xy + 2 * site[item], x, y, a);
        }
        reader.read(count, [&](int64_t i) { return out + items[i] * CORE; });
    }
}

// What is learned of an anchor's read: W^Δ along x, then along y, and W^a as one product [D, columns] with its bias; or W^a
// alone, where `fixed` are the offsets. Then W_O [D, D] and what is added behind it.
template <class T>
struct ReadWeights {
    int64_t columns;
    const T *joint, *bias, *fixed, *out, *plus;
};

// The evidence of anchors from their conditioning to standardised tokens, without anything of it in memory.
template <class T>
void evidence(int64_t first, int64_t last, const Conditioning<T>& conditioning, const ReadWeights<T>& weights,
              int64_t samples, const T* const* rows, const int64_t* rows_per_map, const T* level, const int32_t* places,
              const T* site_xy, T* out) {
    using W = Wide<T>;
    constexpr int64_t group = Reader<T>::at_once;
    const int64_t items_per_image = conditioning.queries_per_image * conditioning.anchors, total = HEADS * samples;
    const int64_t room = weights.columns + W::lanes;  // of an item's offsets and scores
    const Scratch<T> code(group * 4 * conditioning.freq), u(group * CORE), raw(group * room), read(group * CORE);
    Reader<T> reader(samples, rows, rows_per_map, level, places);
    const auto order = by_site(first, last, items_per_image, conditioning.site);
    for (int64_t start = 0; start < last - first; start += group) {
        const int64_t count = std::min(group, last - first - start);
        const int64_t* items = order.data() + start;
        conditioning(count, items, code, u);
        products<T>(count, weights.columns, CORE, u, CORE, weights.joint, weights.columns,
                    [&](int64_t i, int64_t c, typename W::V sum) {
                        W::store(raw + i * room + c, sum + W::load(weights.bias + c));
                    });
        for (int64_t i = 0; i < count; ++i) {
            const T* of = raw + i * room;
            const T *x = weights.fixed ? weights.fixed : of, *y = x + total, *score = weights.fixed ? of : y + total;
            reader.find(i, items[i] / items_per_image, site_xy + 2 * conditioning.site[items[i]], x, y, score);
        }
        reader.read(count, [&](int64_t i) { return read + i * CORE; });
        products<T>(count, CORE, CORE, read, CORE, weights.out, CORE,
                    [&](int64_t i, int64_t c, typename W::V sum) {
                        W::store(u + i * CORE + c, sum + W::load(weights.plus + c));
                    });
        for (int64_t i = 0; i < count; ++i) {
            Row<T> row = Row<T>::load(u + i * CORE);
            row.standardise();
            row.store(out + items[i] * CORE);
        }
    }
}

}  // namespace
