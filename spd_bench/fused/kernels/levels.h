// The neck's finer levels: maps that are enlarged, and what a projection makes of them (§4, R-06).

#pragma once

#include "vectors.h"

namespace {

// Bilinear enlargement of channels-last maps by a whole factor that keeps pixel centres (align_corners=False). Items are
// lines of cells of all enlarged maps; `cell` gets line, column, the two rows to read between and the share of the right.
template <class T, int SIZE, class Cell>
void enlarge(int64_t first, int64_t last, int64_t height, int64_t width, int64_t factor, const T* coarse, Cell cell) {
    using Channels = Row<T, SIZE>;
    const auto source = [factor](int64_t at, int64_t cells, int64_t& low, int64_t& high) {
        const T place = std::max(T(0), (T(at) + T(0.5)) / T(factor) - T(0.5));
        low = int64_t(place), high = std::min(low + 1, cells - 1);
        return place - T(low);
    };
    std::vector<T> between(width * SIZE);
    int64_t low, high;
    for (int64_t line = first; line < last; ++line) {
        const T* map = coarse + line / (height * factor) * height * width * SIZE;
        const T down = source(line % (height * factor), height, low, high);
        for (int64_t c = 0; c < width * SIZE; c += SIZE)
            Channels::between(map + low * width * SIZE + c, map + high * width * SIZE + c, down).store(&between[c]);
        for (int64_t column = 0; column < width * factor; ++column) {
            const T right = source(column, width, low, high);
            cell(line, column, &between[low * SIZE], &between[high * SIZE], right);
        }
    }
    Wide<T>::streamed();
}

// Where cells of enlarged maps lie as rows within a border of zeros, which `begin` writes around a line.
template <class T, int SIZE>
struct Bordered {
    int64_t height, width, pad;
    T* rows;

    T* at(int64_t line, int64_t column) const {
        const int64_t stride = width + 2 * pad, map = line / height, y = line % height;
        return rows + ((map * (height + 2 * pad) + y + pad) * stride + pad + column) * SIZE;
    }
    void begin(int64_t line) const {
        const int64_t whole = (width + 2 * pad) * pad;
        if (line % height == 0) std::fill_n(at(line, -pad) - whole * SIZE, whole * SIZE, T(0));
        std::fill_n(at(line, -pad), pad * SIZE, T(0));
        std::fill_n(at(line, width), pad * SIZE, T(0));
        if (line % height == height - 1) std::fill_n(at(line, width + pad), whole * SIZE, T(0));
    }
};

// LayerNorm of enlarged maps, plus a row; the sum has mean 0. Tables are larger than caches and not read at once: they
// are written past them, without being fetched first.
template <class T, int SIZE>
void enlarged_norm(int64_t first, int64_t last, int64_t height, int64_t width, int64_t factor, int64_t pad,
                   const T* coarse, const T* plus, const T* weight, const T* bias, T* out) {
    const Bordered<T, SIZE> to{height * factor, width * factor, pad, out};
    enlarge<T, SIZE>(first, last, height, width, factor, coarse,
                     [&](int64_t line, int64_t column, const T* left, const T* right, T share) {
                         if (column == 0) to.begin(line);
                         auto row = Row<T, SIZE>::between(left, right, share);
                         row.add(plus);
                         row.scale_and_shift(row.inverse_spread(), weight, bias);
                         row.stream(to.at(line, column));
                     });
}

// 1 / standard deviation over channels of every cell of enlarged maps, plus a row; the sum has mean 0.
template <class T, int SIZE>
void enlarged_spread(int64_t first, int64_t last, int64_t height, int64_t width, int64_t factor, const T* coarse,
                     const T* plus, T* out) {
    enlarge<T, SIZE>(first, last, height, width, factor, coarse,
                     [&](int64_t line, int64_t column, const T* left, const T* right, T share) {
                         auto row = Row<T, SIZE>::between(left, right, share);
                         row.add(plus);
                         out[line * width * factor + column] = row.inverse_spread();
                     });
}

// Enlarged maps plus a row, every cell times a number of its own, plus another row.
template <class T>
void enlarged_product(int64_t first, int64_t last, int64_t height, int64_t width, int64_t factor, int64_t pad,
                      const T* coarse, const T* plus, const T* scale, const T* shift, T* out) {
    const Bordered<T, CORE> to{height * factor, width * factor, pad, out};
    enlarge<T, CORE>(first, last, height, width, factor, coarse,
                     [&](int64_t line, int64_t column, const T* left, const T* right, T share) {
                         if (column == 0) to.begin(line);
                         auto row = Row<T, CORE>::between(left, right, share);
                         row.add(plus);
                         row.scale_and_shift(scale[line * width * factor + column], shift);
                         row.stream(to.at(line, column));
                     });
}

}  // namespace
