// B1: reads around a query, and its tokens of L1 (§6.1).

#pragma once

#include "products.h"
#include "scratch.h"

namespace {

// Where a bilinear read of a map begins (geometry.Table.taps): the point, held within reach of the map, the row of its
// upper left cell, and the fractions.
template <class T>
struct Place {
    T x, y, fx, fy;
    int64_t row;

    Place(const T* xy, int64_t width, int64_t height, int64_t pad) {
        x = at_most(at_least(xy[0], T(-0.5)), T(width) + T(0.5));
        y = at_most(at_least(xy[1], T(-0.5)), T(height) + T(0.5));
        const T column = std::floor(x - T(0.5)), line = std::floor(y - T(0.5));
        fx = x - T(0.5) - column, fy = y - T(0.5) - line;
        const int64_t stride = width + 2 * pad, lowest = (pad - 1) * (stride + 1);
        const int64_t highest = (height + pad) * stride + width + pad;
        // NaN has no row: it takes a legal one, and reads NaN through its fractions
        const bool legal = x == x && y == y;
        row = legal ? (int64_t(line) + pad) * stride + int64_t(column) + pad : lowest;
        row = std::min(std::max(row, lowest), highest);
    }
};

// A batch of maps as rows within a border of zeros (geometry.Table).
template <class T>
struct Map {
    const T* rows;
    int64_t rows_per_map, channels, width, height, pad;
};

// Bilinear reads at SIDE x SIDE places one cell apart around a point in cells (geometry.Table.read_neighbourhood). All share
// their fractions: lines are interpolated along x, then neighbouring lines along y. With `plus`, of D channels, standardised
// after it.
template <class T, int SIDE>
void around(const Map<T>& map, int64_t image, const T* xy, const T* plus, T* out) {
    using W = Wide<T>;
    using V = typename W::V;
    const int64_t stride = map.width + 2 * map.pad, channels = map.channels;
    const Place<T> at(xy, map.width, map.height, map.pad);
    const T fx = at.fx, fy = at.fy;
    const T* corner = map.rows + (image * map.rows_per_map + at.row - (SIDE / 2) * (stride + 1)) * channels;
    T raw[SIDE * SIDE * CORE];
    T* to = plus ? raw : out;
    for (int64_t c = 0; c < channels; c += W::lanes) {
        V above[SIDE];
        for (int line = 0; line <= SIDE; ++line) {
            const T* from = corner + line * stride * channels + c;
            V cell[SIDE + 1];
            for (int i = 0; i <= SIDE; ++i) cell[i] = W::load(from + i * channels);
            for (int i = 0; i < SIDE; ++i) {
                const V here = cell[i] + fx * (cell[i + 1] - cell[i]);
                if (line > 0) W::store(to + ((line - 1) * SIDE + i) * channels + c, above[i] + fy * (here - above[i]));
                above[i] = here;
            }
        }
    }
    for (int place = 0; plus && place < SIDE * SIDE; ++place) {
        Row<T> row = Row<T>::load(raw + place * CORE);
        row.add(plus + place * CORE);
        row.standardise();
        row.store(out + place * CORE);
    }
}
template <class T>
void around(int64_t side, const Map<T>& map, int64_t image, const T* xy, const T* plus, T* out) {
    const auto of = side == 5 ? around<T, 5> : side == 3 ? around<T, 3> : around<T, 1>;
    of(map, image, xy, plus, out);
}

// Fetches the cells of a neighbourhood that will be read.
template <class T>
inline __attribute__((always_inline)) void fetch_around(int64_t side, const Map<T>& map, int64_t image, T x, T y) {
    const T xy[] = {x, y};
    const int64_t stride = map.width + 2 * map.pad, row = Place<T>(xy, map.width, map.height, map.pad).row;
    const T* corner = map.rows + (image * map.rows_per_map + row - side / 2 * (stride + 1)) * map.channels;
    for (int64_t line = 0; line <= side; ++line)
        for (int64_t c = 0; c < (side + 1) * map.channels; c += 64 / sizeof(T))
            __builtin_prefetch(corner + line * stride * map.channels + c, 0, 2);
}

template <class T>
void neighbourhood(int64_t first, int64_t last, int64_t side, const Map<T>& map, int64_t items_per_map, const T* xy,
                   T* out) {
    for (int64_t item = first; item < last; ++item)
        around<T>(side, map, item / items_per_map, xy + 2 * item, nullptr, out + item * side * side * map.channels);
}

// §6.1's code of pairs (x, y): sin and cos of 2π 2^l x, then of y, [pairs, 4 freq].
template <class T>
void fourier(int64_t pairs, int64_t freq, const T* xy, T* code) {
    using W = Wide<T>;
    const int64_t angles = 2 * pairs * freq, room = (angles + W::lanes - 1) / W::lanes * W::lanes;
    const Scratch<T> angle(room), sine(room), cosine(room);
    std::fill(angle + angles, angle + room, T(0));
    for (int64_t i = 0; i < 2 * pairs; ++i) {
        T frequency = T(6.283185307179586476925286766559);
        for (int64_t f = 0; f < freq; ++f, frequency *= 2) angle[i * freq + f] = xy[i] * frequency;
    }
    for (int64_t i = 0; i < room; i += W::lanes) {
        typename W::V s, c;
        sine_and_cosine<T>(W::load(angle + i), s, c);
        W::store(sine + i, s);
        W::store(cosine + i, c);
    }
    for (int64_t i = 0; i < 2 * pairs; ++i) {
        std::copy_n(sine + i * freq, freq, code + 2 * i * freq);
        std::copy_n(cosine + i * freq, freq, code + (2 * i + 1) * freq);
    }
}

// What is learned of the seed and of L1's tokens (§6.1). All weights are transposed, [channels in, channels out]; those of
// the offsets have whole panels of columns.
template <class T>
struct LocalWeights {
    int64_t side, learned, centre_is_token, position_freq, offset_freq, offset_columns;
    T reach;  // of a learned offset, in cells
    const T *seed, *seed_bias, *offset, *offset_bias, *on_feature, *on_code, *bias, *cell_shift, *embedding;
};

// The seed of every query, and its tokens of all levels, standardised; the first of the maps is L1. xy: in the unit
// square; cells of a map by `scale`, x and y of each.
template <class T>
void local_tokens(int64_t first, int64_t last, int64_t items_per_map, const T* xy, int64_t levels, const Map<T>* maps,
                  const int64_t* sides, const T* scale, const LocalWeights<T>& w, T* seed, T* out) {
    using W = Wide<T>;
    using V = typename W::V;
    constexpr int64_t group = rows_at_once;
    const Map<T>& l1 = maps[0];
    const int64_t fine = l1.channels, known = fine + 4 * w.position_freq, cells = w.side * w.side, middle = cells / 2;
    const int64_t ring = cells - !w.centre_is_token, own = ring + w.learned, codes = 4 * w.offset_freq;
    int64_t all = own;
    for (int64_t l = 1; l < levels; ++l) all += sides[l] * sides[l];
    const Scratch<T> about(group * known), position(group * 4 * w.position_freq), raw(group * w.offset_columns),
        delta(group * w.learned * 2), code(group * w.learned * codes), shift(group * w.learned * CORE),
        near(cells * fine), features(own * fine), token(own * CORE);
    for (int64_t begin = first; begin < last; begin += group) {
        const int64_t count = std::min(group, last - begin);
        fourier<T>(count, w.position_freq, xy + 2 * begin, position);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t item = begin + i;
            const T at[] = {xy[2 * item] * scale[0], xy[2 * item + 1] * scale[1]};
            around<T, 1>(l1, item / items_per_map, at, nullptr, about + i * known);
            std::copy_n(position + i * (known - fine), known - fine, about + i * known + fine);
        }
        products<T>(count, CORE, known, about, known, w.seed, CORE, [&](int64_t i, int64_t c, V sum) {
            W::store(seed + (begin + i) * CORE + c, sum + W::load(w.seed_bias + c));
        });
        if (w.learned) {
            const int64_t numbers = 2 * w.learned;
            products<T>(count, w.offset_columns, fine, about, known, w.offset, w.offset_columns,
                        [&](int64_t i, int64_t c, V sum) {
                            W::store(raw + i * w.offset_columns + c,
                                     hyperbolic_tangent<T>(sum + W::load(w.offset_bias + c)));
                        });
            for (int64_t i = 0; i < count; ++i)
                for (int64_t n = 0; n < numbers; ++n) delta[i * numbers + n] = raw[i * w.offset_columns + n] / 2;
            fourier<T>(count * w.learned, w.offset_freq, delta, code);
            products<T>(count * w.learned, CORE, codes, code, codes, w.on_code, CORE, [&](int64_t i, int64_t c, V sum) {
                W::store(shift + i * CORE + c, sum + W::load(w.bias + c));
            });
        }
        for (int64_t i = 0; i < count; ++i) {
            const int64_t item = begin + i, image = item / items_per_map;
            const T* const point = xy + 2 * item;
            T* to = out + item * all * CORE;
            for (int64_t l = 0; l < levels && item + 1 < last; ++l)
                fetch_around<T>(l ? sides[l] : w.side, maps[l], (item + 1) / items_per_map, point[2] * scale[2 * l],
                                point[3] * scale[2 * l + 1]);
            const T at[] = {point[0] * scale[0], point[1] * scale[1]};
            around<T>(w.side, l1, image, at, nullptr, near);
            for (int64_t place = 0, token = 0; place < cells; ++place)
                if (w.centre_is_token || place != middle) std::copy_n(near + place * fine, fine, features + token++ * fine);
            for (int64_t m = 0; m < w.learned; ++m) {
                const T* by = delta + (i * w.learned + m) * 2;
                const T there[] = {at[0] + 2 * w.reach * by[0], at[1] + 2 * w.reach * by[1]};
                around<T, 1>(l1, image, there, nullptr, features + (ring + m) * fine);
            }
            products<T>(own, CORE, fine, features, fine, w.on_feature, CORE,
                        [&](int64_t t, int64_t c, V sum) { W::store(token + t * CORE + c, sum); });
            for (int64_t t = 0; t < own; ++t, to += CORE) {
                Row<T> row = Row<T>::load(token + t * CORE);
                row.add(t < ring ? w.cell_shift + t * CORE : shift + (i * w.learned + t - ring) * CORE);
                row.apply_gelu();
                row.add(w.embedding + t * CORE);
                row.standardise();
                row.store(to);
            }
            const T* plus = w.embedding + own * CORE;
            for (int64_t l = 1; l < levels; ++l) {
                const T cell[] = {point[0] * scale[2 * l], point[1] * scale[2 * l + 1]};
                around<T>(sides[l], maps[l], image, cell, plus, to);
                to += sides[l] * sides[l] * CORE, plus += sides[l] * sides[l] * CORE;
            }
        }
    }
}

}  // namespace
