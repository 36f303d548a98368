// Matrix products whose results are used where they are made: what is done with each vector of them is the caller's.

#pragma once

#include "scratch.h"
#include "vectors.h"

namespace {

template <class T>
constexpr int panel = 2 * Wide<T>::lanes;  // columns that are computed together, with as many rows as registers allow
constexpr int rows_at_once = vector_bytes == 64 ? 8 : 6;

// One block of `products`.
template <class T, int ROWS, class Use>
inline void product_block(int64_t row, int64_t column, int64_t depth, const T* rows, int64_t row_step, const T* lines,
                          int64_t line_step, int64_t panel_step, Use use) {
    using W = Wide<T>;
    typename W::V sum[ROWS][2] = {};
    const T* of[ROWS];
    for (int i = 0; i < ROWS; ++i) of[i] = rows + (row + i) * row_step;
    const T* line = lines + column / panel<T> * panel_step;
    for (int64_t k = 0; k < depth; ++k, line += line_step) {
        const typename W::V left = W::load(line), right = W::load(line + W::lanes);
        for (int i = 0; i < ROWS; ++i) {
            const T factor = of[i][k];
            sum[i][0] += factor * left;
            sum[i][1] += factor * right;
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int half = 0; half < 2; ++half) use(row + i, column + half * W::lanes, sum[i][half]);
}

// use(r, c, sums) for all rows r and each vector of columns c: sums over k of rows[r][k] · lines[k][c]. Columns come in
// whole panels, `panel_step` apart. Rows go by outermost: each is read once.
template <class T, class Use>
inline void products(int64_t row_count, int64_t columns, int64_t depth, const T* rows, int64_t row_step, const T* lines,
                     int64_t line_step, int64_t panel_step, Use use) {
    int64_t row = 0;
    const auto block = [&](auto count) {
        for (int64_t i = row + count; i < std::min<int64_t>(row_count, row + count + rows_at_once); ++i)
            for (int64_t k = 0; k < depth; k += 64 / sizeof(T)) __builtin_prefetch(rows + i * row_step + k);
        for (int64_t column = 0; column < columns; column += panel<T>)
            product_block<T, decltype(count)::value>(row, column, depth, rows, row_step, lines, line_step, panel_step,
                                                     use);
        row += count;
    };
    while (row + rows_at_once <= row_count) block(std::integral_constant<int, rows_at_once>{});
    while (row + 2 <= row_count) block(std::integral_constant<int, 2>{});
    while (row < row_count) block(std::integral_constant<int, 1>{});
}

// Columns one after the other in each line, as many as there are.
template <class T, class Use>
inline void products(int64_t row_count, int64_t columns, int64_t depth, const T* rows, int64_t row_step, const T* lines,
                     int64_t line_step, Use use) {
    products<T>(row_count, columns, depth, rows, row_step, lines, line_step, panel<T>, use);
}

// W x + b of many rows x.
template <class T>
void linear_of_many(int64_t first, int64_t last, int64_t channels, int64_t columns, const T* x, const T* weight,
                    const T* bias, T* out) {
    using W = Wide<T>;
    constexpr int64_t wide = panel<T>;
    const Scratch<T> lines(channels * columns);  // panel by panel
    for (int64_t column = 0; column < columns; column += wide)
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t i = 0; i < wide; ++i) lines[column * channels + c * wide + i] = weight[(column + i) * channels + c];
    products<T>(last - first, columns, channels, x + first * channels, channels, lines, wide, channels * wide,
                [&](int64_t row, int64_t c, typename W::V sum) {
                    W::store(out + (first + row) * columns + c, bias ? sum + W::load(bias + c) : sum);
                });
}

}  // namespace
