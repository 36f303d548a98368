// B1: reads around a query, and its tokens of L1 (§6.1).

#pragma once

#include "vectors.h"

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

// Bilinear reads at SIDE x SIDE places one cell apart (geometry.Table.read_neighbourhood). All share their fractions:
// lines are interpolated along x, then neighbouring lines along y. With `plus`, of D channels, standardised after it.
template <class T, int SIDE>
void neighbourhood(int64_t first, int64_t last, const T* rows, int64_t rows_per_map, int64_t items_per_map,
                   int64_t channels, int64_t width, int64_t height, int64_t pad, const T* xy, const T* plus, T* out,
                   int64_t out_stride) {
    using W = Wide<T>;
    using V = typename W::V;
    const int64_t stride = width + 2 * pad;
    for (int64_t item = first; item < last; ++item) {
        const Place<T> at(xy + 2 * item, width, height, pad);
        const T fx = at.fx, fy = at.fy;
        const int64_t row = at.row - (SIDE / 2) * (stride + 1);
        const T* corner = rows + ((item / items_per_map) * rows_per_map + row) * channels;
        T raw[SIDE * SIDE * CORE];
        T* to = plus ? raw : out + item * out_stride;
        for (int64_t c = 0; c < channels; c += W::lanes) {
            V above[SIDE];
            for (int line = 0; line <= SIDE; ++line) {
                const T* from = corner + line * stride * channels + c;
                V cell[SIDE + 1];
                for (int i = 0; i <= SIDE; ++i) cell[i] = W::load(from + i * channels);
                for (int i = 0; i < SIDE; ++i) {
                    const V here = cell[i] + fx * (cell[i + 1] - cell[i]);
                    if (line > 0) {
                        const int64_t place = ((line - 1) * SIDE + i) * channels + c;
                        W::store(to + place, above[i] + fy * (here - above[i]));
                    }
                    above[i] = here;
                }
            }
        }
        for (int place = 0; plus && place < SIDE * SIDE; ++place) {
            Row<T> row = Row<T>::load(raw + place * CORE);
            row.add(plus + place * CORE);
            row.standardise();
            row.store(out + item * out_stride + place * CORE);
        }
    }
}

// GELU(x + shift) + plus of an item's tokens, standardised; the shift the same for every item in the first `shared` of them.
template <class T>
void gelu_tokens(int64_t first, int64_t last, int64_t tokens, const T* x, int64_t shared, const T* shared_shift,
                 const T* own_shift, const T* plus, T* out, int64_t out_stride) {
    for (int64_t item = first; item < last; ++item)
        for (int64_t t = 0; t < tokens; ++t) {
            Row<T> row = Row<T>::load(x + (item * tokens + t) * CORE);
            row.add(t < shared ? shared_shift + t * CORE : own_shift + (item * (tokens - shared) + t - shared) * CORE);
            row.apply_gelu();
            row.add(plus + t * CORE);
            row.standardise();
            row.store(out + item * out_stride + t * CORE);
        }
}

}  // namespace
