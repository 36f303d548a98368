// The kernels of training, behind those of inference: forward where something is kept for the way back, and backward
// (fused_training.py).
//
// Every item writes what is its own, in an order of its own, so that gradients do not depend on threads.

#include "inference.cpp"

namespace {

// --- standardised tokens --------------------------------------------------------------------------------------------

// `standardise`, with 1 / standard deviation of every row.
template <class T>
void standardise_kept(int64_t first, int64_t last, const T* rows, T* out, T* scale) {
    for (int64_t item = first; item < last; ++item) {
        Row<T> row = Row<T>::load(rows + item * CORE);
        scale[item] = row.standardise();
        row.store(out + item * CORE);
    }
}

// Of every row n of standardised numbers the gradient g becomes that of the numbers before: s (g - mean g - n mean ng).
template <class T>
void standardise_backward(int64_t first, int64_t last, const T* standard, const T* scale, T* grad) {
    using W = Wide<T>;
    using V = typename W::V;
    for (int64_t item = first; item < last; ++item) {
        const Row<T> n = Row<T>::load(standard + item * CORE);
        Row<T> g = Row<T>::load(grad + item * CORE);
        V sums = {}, products = {};
        for (int b = 0; b < Row<T>::blocks; ++b) sums += g.part[b], products += g.part[b] * n.part[b];
        const T mean = W::sum(sums) / CORE, along = W::sum(products) / CORE;
        for (int b = 0; b < Row<T>::blocks; ++b) g.part[b] = (g.part[b] - mean - n.part[b] * along) * scale[item];
        g.store(grad + item * CORE);
    }
}

// --- B1 -------------------------------------------------------------------------------------------------------------

// From the gradient of `neighbourhood` that of its rows, which is added to, and of its points. Items are maps.
template <class T, int SIDE>
void neighbourhood_backward(int64_t first, int64_t last, const T* rows, int64_t rows_per_map, int64_t items_per_map,
                            int64_t channels, int64_t width, int64_t height, int64_t pad, const T* xy,
                            const T* grad_out, T* grad_rows, T* grad_xy) {
    using W = Wide<T>;
    using V = typename W::V;
    const int64_t stride = width + 2 * pad;
    for (int64_t item = first * items_per_map; item < last * items_per_map; ++item) {
        const Place<T> at(xy + 2 * item, width, height, pad);
        const T fx = at.fx, fy = at.fy;
        const int64_t row = (item / items_per_map) * rows_per_map + at.row - (SIDE / 2) * (stride + 1);
        V along_x = {}, along_y = {};
        for (int64_t c = 0; c < channels; c += W::lanes) {
            V above[SIDE] = {}, read_above[SIDE] = {};
            for (int line = 0; line <= SIDE; ++line) {
                const int64_t begin = (row + line * stride) * channels + c;
                V below[SIDE] = {}, cell[SIDE + 1], grad[SIDE + 1] = {};
                for (int i = 0; i <= SIDE; ++i) cell[i] = W::load(rows + begin + i * channels);
                for (int i = 0; i < SIDE; ++i) {
                    if (line < SIDE) below[i] = W::load(grad_out + ((item * SIDE + line) * SIDE + i) * channels + c);
                    const V here = cell[i] + fx * (cell[i + 1] - cell[i]);
                    const V of_line = fy * above[i] + (1 - fy) * below[i];
                    along_x += of_line * (cell[i + 1] - cell[i]);
                    along_y += above[i] * (here - read_above[i]);
                    grad[i] += (1 - fx) * of_line;
                    grad[i + 1] += fx * of_line;
                    above[i] = below[i], read_above[i] = here;
                }
                for (int i = 0; i <= SIDE; ++i) {
                    T* to = grad_rows + begin + i * channels;
                    W::store(to, W::load(to) + grad[i]);
                }
            }
        }
        // what was moved to the border has no gradient of its place
        grad_xy[2 * item] = at.x == xy[2 * item] ? W::sum(along_x) : 0;
        grad_xy[2 * item + 1] = at.y == xy[2 * item + 1] ? W::sum(along_y) : 0;
    }
}

// --- B2 and B5 ------------------------------------------------------------------------------------------------------

// `attend` with shares that are each multiplied by `keep` [items, N, all] if there is one (dropout). Kept for the way
// back: the shares before that [items, N, all]. total: the sum of a head's shares after it [items, N].
template <class T>
void attend_kept(int64_t first, int64_t last, int64_t items, int64_t parts, const T* const* tokens,
                 const int64_t* count, const T* query, const T* keep, T* shares, T* out, T* total) {
    Tokens<T> of(first, parts, tokens, count);
    std::vector<T> share(HEADS * of.room);
    for (int64_t item = first; item < last; ++item, of.next()) {
        const bool more = item + 1 < last;
        of.products(query + item * CORE, items * CORE, share.data(), more);
        of.softmax(1 / std::sqrt(T(WIDTH)), share.data());
        for (int64_t n = 0; n < HEADS; ++n) {
            const int64_t row = (item * HEADS + n) * of.all;
            T *s = share.data() + n * of.room, sum = 0;
            std::copy(s, s + of.all, shares + row);
            for (int64_t j = 0; j < of.all; ++j) {
                if (keep) s[j] *= keep[row + j];
                sum += s[j];
            }
            total[item * HEADS + n] = sum;
        }
        of.mixture(share.data(), out + item * CORE, items * CORE, more);
    }
}

// (grad +) sum over 2 N rows of each weight [2 N] times its row, of SIZE tokens.
template <class T, bool ADDS, int SIZE>
inline void spread_over(const T* weight, const T* const* of, T* grad) {
    using W = Wide<T>;
    using V = typename W::V;
    V share[SIZE][2 * HEADS];
    for (int j = 0; j < SIZE; ++j)
        for (int i = 0; i < 2 * HEADS; ++i) share[j][i] = W::all(weight[j * 2 * HEADS + i]);
    for (int c = 0; c < CORE; c += W::lanes) {
        V sum[SIZE] = {};
        for (int j = 0; j < SIZE && ADDS; ++j) sum[j] = W::load(grad + j * CORE + c);
        for (int i = 0; i < 2 * HEADS; ++i) {
            const V row = W::load(of[i] + c);
            for (int j = 0; j < SIZE; ++j) sum[j] += share[j][i] * row;
        }
        for (int j = 0; j < SIZE; ++j) W::store(grad + j * CORE + c, sum[j]);
    }
}
template <class T, bool ADDS>
void spread(int64_t count, const T* weight, const T* const* of, T* grad) {
    constexpr int two = 2;  // tokens that share a load of the rows
    int64_t j = 0;
    for (; j + two <= count; j += two)
        spread_over<T, ADDS, two>(weight + j * 2 * HEADS, of, grad + j * CORE);
    if (j < count) spread_over<T, ADDS, 1>(weight + j * 2 * HEADS, of, grad + j * CORE);
}

// From the gradients of out and total those of the query and of the tokens; these are added to what is there where
// `adds` says so, and left out where there is no place for them.
template <class T>
void attend_backward(int64_t first, int64_t last, int64_t items, int64_t parts, const T* const* tokens,
                     const int64_t* count, const T* query, const T* keep, const T* shares, const T* grad_out,
                     const T* grad_total, T* grad_query, T* const* grad_tokens, const int64_t* adds) {
    Tokens<T> of(first, parts, tokens, count);
    const T scale = 1 / std::sqrt(T(WIDTH));
    std::vector<T> grad(HEADS * of.room), weight(of.all * 2 * HEADS);
    for (int64_t item = first; item < last; ++item, of.next()) {
        const bool more = item + 1 < last;
        of.products(grad_out + item * CORE, items * CORE, grad.data(), more);
        for (int64_t n = 0; n < HEADS; ++n) {
            const T *s = shares + (item * HEADS + n) * of.all, *k = keep ? keep + (item * HEADS + n) * of.all : nullptr;
            T *g = grad.data() + n * of.room, along = 0;
            for (int64_t j = 0; j < of.all; ++j) {
                g[j] = (g[j] + grad_total[item * HEADS + n]) * (k ? k[j] : 1);
                along += g[j] * s[j];
            }
            for (int64_t j = 0; j < of.all; ++j) {
                g[j] = s[j] * (g[j] - along) * scale;
                weight[j * 2 * HEADS + n] = s[j] * (k ? k[j] : 1);
                weight[j * 2 * HEADS + HEADS + n] = g[j];
            }
        }
        of.mixture(grad.data(), grad_query + item * CORE, items * CORE, more);
        const T* from[2 * HEADS];
        for (int64_t n = 0; n < HEADS; ++n) {
            from[n] = grad_out + (n * items + item) * CORE;
            from[HEADS + n] = query + (n * items + item) * CORE;
        }
        const T* w = weight.data();
        for (int64_t p = 0; p < parts; w += count[p++] * 2 * HEADS)
            if (grad_tokens[p])
                (adds[p] ? spread<T, true> : spread<T, false>)(count[p], w, from,
                                                               grad_tokens[p] + item * count[p] * CORE);
    }
}

// --- B4 -------------------------------------------------------------------------------------------------------------

// From the gradient of `levels_read` those of its rows, which are added to, and of offsets and scores [items, N S].
// Items are the heads of every image: each reads and writes its own channels of its image's rows.
template <class T>
void levels_read_backward(int64_t first, int64_t last, int64_t samples, const T* const* rows,
                          const int64_t* rows_per_map, const T* level, const int32_t* places, int64_t items_per_image,
                          const int64_t* site, const T* site_xy, const T* dx, const T* dy, int64_t item_step,
                          int64_t step, const T* score, int64_t score_step, const T* grad_out, T* const* grad_rows,
                          T* grad_dx, T* grad_dy, T* grad_score) {
    using W = Wide<T>;
    using V = typename W::V;
    using Int = typename Of<T>::Int;
    constexpr int blocks = WIDTH / W::lanes, corners = 4, at_once = 4;  // items whose places are found together
    const int64_t total = at_once * samples, padded = (total + W::lanes - 1) / W::lanes * W::lanes;
    std::vector<T> work((12 + corners) * padded);
    std::vector<Int> whole(4 * padded);
    T *scale_x = work.data(), *scale_y = scale_x + padded, *right = scale_y + padded, *bottom = right + padded,
      *x_at = bottom + padded, *y_at = x_at + padded, *share = y_at + padded, *fx = share + padded, *fy = fx + padded,
      *gx = fy + padded, *gy = gx + padded, *value = gy + padded, *cell = value + padded;
    Int *stride = whole.data(), *corner = stride + padded, *most_row = corner + padded, *row = most_row + padded;
    for (int64_t t = 0; t < total; ++t) {
        const int64_t s = t % samples;
        scale_x[t] = level[s], scale_y[t] = level[samples + s];
        right[t] = level[2 * samples + s], bottom[t] = level[3 * samples + s];
        stride[t] = places[s], corner[t] = places[samples + s], most_row[t] = places[2 * samples + s];
    }
    std::vector<const T*> from(samples);
    std::vector<T*> to(samples);
    std::vector<int64_t> order;
    for (int64_t part = first; part < last; ++part) {
        const int64_t image = part / HEADS, head = part % HEADS;
        if (part == first || head == 0)
            order = by_site(image * items_per_image, (image + 1) * items_per_image, items_per_image, site);
        for (int64_t s = 0; s < samples; ++s) {
            const int64_t begin = image * rows_per_map[s] * CORE + head * WIDTH;
            from[s] = rows[s] + begin, to[s] = grad_rows[s] + begin;
        }
        for (int64_t begin = 0; begin < items_per_image; begin += at_once) {
            const int used = int(std::min<int64_t>(at_once, items_per_image - begin));
            for (int i = 0; i < used; ++i) {
                const int64_t item = order[begin + i];
                const T x0 = site_xy[2 * site[item]], y0 = site_xy[2 * site[item] + 1];
                const T *x = dx + item * item_step + head * samples * step, *y = x - dx + dy;
                const T* a = score + item * score_step + head * samples;
                T most = a[0];
                for (int64_t s = 1; s < samples; ++s) most = a[s] > most ? a[s] : most;
                for (int64_t s = 0, t = i * samples; s < samples; ++s, ++t) {
                    x_at[t] = x[s * step] + x0 * scale_x[t], y_at[t] = y[s * step] + y0 * scale_y[t];
                    share[t] = a[s] - most;
                }
            }
            for (int64_t t = 0; t < padded; t += W::lanes) {
                const V x = at_most(at_least(W::load(x_at + t), W::all(T(-0.5))), W::load(right + t));
                const V y = at_most(at_least(W::load(y_at + t), W::all(T(-0.5))), W::load(bottom + t));
                const Bilinear<T> of(x - T(0.5), y - T(0.5), stride + t, corner + t, most_row + t);
                W::store(share + t, exponential<T>(W::load(share + t)));
                // what was moved to the border has no gradient of its place
                W::store(gx + t, x == W::load(x_at + t) ? W::all(T(1)) : V{});
                W::store(gy + t, y == W::load(y_at + t) ? W::all(T(1)) : V{});
                W::store_whole(row + t, of.row);
                W::store(fx + t, of.fx);
                W::store(fy + t, of.fy);
            }
            for (int i = 0; i < used; ++i) {
                T *a = share + i * samples, sum = 0;
                for (int64_t s = 0; s < samples; ++s) sum += a[s];
                const T one = 1 / sum;
                for (int64_t s = 0; s < samples; ++s) a[s] *= one;
            }
            for (int i = 0; i < used; ++i) {
                V g[blocks];
                for (int b = 0; b < blocks; ++b)
                    g[b] = W::load(grad_out + order[begin + i] * CORE + head * WIDTH + b * W::lanes);
                for (int64_t s = 0, t = i * samples; s < samples; ++s, ++t) {
                    const int64_t up = int64_t(row[t]) * CORE, down = up + int64_t(stride[t]) * CORE;
                    const int64_t place[corners] = {up, up + CORE, down, down + CORE};
                    const T lower = share[t] * fy[t], upper = share[t] - lower, lower_right = lower * fx[t];
                    const T upper_right = upper * fx[t];
                    const T weight[corners] = {upper - upper_right, upper_right, lower - lower_right, lower_right};
                    V product[corners] = {};
                    T sums[corners];
                    for (int k = 0; k < corners; ++k)
                        for (int b = 0; b < blocks; ++b) {
                            product[k] += g[b] * W::load(from[s] + place[k] + b * W::lanes);
                            T* grad = to[s] + place[k] + b * W::lanes;
                            W::store(grad, W::load(grad) + weight[k] * g[b]);
                        }
                    sums_of_four<T>(product, sums);
                    for (int k = 0; k < corners; ++k) cell[k * padded + t] = sums[k];
                }
            }
            for (int64_t t = 0; t < padded; t += W::lanes) {
                const V ul = W::load(cell + t), ur = W::load(cell + padded + t), ll = W::load(cell + 2 * padded + t),
                        lr = W::load(cell + 3 * padded + t), x = W::load(fx + t), y = W::load(fy + t),
                        a = W::load(share + t);
                const V left = ul + y * (ll - ul), to_right = ur + y * (lr - ur) - left;
                W::store(value + t, left + x * to_right);
                W::store(gx + t, W::load(gx + t) * a * to_right);
                W::store(gy + t, W::load(gy + t) * a * ((ll - ul) + x * ((lr - ll) - (ur - ul))));
            }
            for (int i = 0; i < used; ++i) {
                const int64_t own = (order[begin + i] * HEADS + head) * samples;
                T along = 0;
                for (int64_t s = 0, t = i * samples; s < samples; ++s, ++t) along += share[t] * value[t];
                for (int64_t s = 0, t = i * samples; s < samples; ++s, ++t) {
                    grad_dx[own + s] = gx[t], grad_dy[own + s] = gy[t];
                    grad_score[own + s] = share[t] * (value[t] - along);
                }
            }
        }
    }
}

}  // namespace

#undef EXPORT
#define EXPORT(T, NAME)                                                                                               \
    extern "C" {                                                                                                      \
    void standardise_kept_##NAME(int64_t first, int64_t last, const T* rows, T* out, T* scale) {                      \
        standardise_kept(first, last, rows, out, scale);                                                              \
    }                                                                                                                 \
    void standardise_backward_##NAME(int64_t first, int64_t last, const T* standard, const T* scale, T* grad) {       \
        standardise_backward(first, last, standard, scale, grad);                                                     \
    }                                                                                                                 \
    void neighbourhood_backward_##NAME(int64_t first, int64_t last, int64_t side, const T* rows,                      \
                                       int64_t rows_per_map, int64_t items_per_map, int64_t channels, int64_t width,  \
                                       int64_t height, int64_t pad, const T* xy, const T* grad_out, T* grad_rows,     \
                                       T* grad_xy) {                                                                  \
        const auto of = side == 5   ? neighbourhood_backward<T, 5>                                                    \
                        : side == 3 ? neighbourhood_backward<T, 3>                                                    \
                                    : neighbourhood_backward<T, 1>;                                                   \
        of(first, last, rows, rows_per_map, items_per_map, channels, width, height, pad, xy, grad_out, grad_rows,     \
           grad_xy);                                                                                                  \
    }                                                                                                                 \
    void attend_kept_##NAME(int64_t first, int64_t last, int64_t items, int64_t parts, const T* const* tokens,        \
                            const int64_t* count, const T* query, const T* keep, T* shares, T* out, T* total) {       \
        attend_kept(first, last, items, parts, tokens, count, query, keep, shares, out, total);                       \
    }                                                                                                                 \
    void attend_backward_##NAME(int64_t first, int64_t last, int64_t items, int64_t parts, const T* const* tokens,    \
                                const int64_t* count, const T* query, const T* keep, const T* shares,                 \
                                const T* grad_out, const T* grad_total, T* grad_query, T* const* grad_tokens,         \
                                const int64_t* adds) {                                                                \
        attend_backward(first, last, items, parts, tokens, count, query, keep, shares, grad_out, grad_total,          \
                        grad_query, grad_tokens, adds);                                                               \
    }                                                                                                                 \
    void levels_read_backward_##NAME(int64_t first, int64_t last, int64_t samples, const T* const* rows,              \
                                     const int64_t* rows_per_map, const T* level, const int32_t* places,              \
                                     int64_t items_per_image, const int64_t* site, const T* site_xy, const T* dx,     \
                                     const T* dy, int64_t item_step, int64_t step, const T* score,                    \
                                     int64_t score_step, const T* grad_out, T* const* grad_rows, T* grad_dx,          \
                                     T* grad_dy, T* grad_score) {                                                     \
        levels_read_backward(first, last, samples, rows, rows_per_map, level, places, items_per_image, site, site_xy, \
                             dx, dy, item_step, step, score, score_step, grad_out, grad_rows, grad_dx, grad_dy,       \
                             grad_score);                                                                             \
    }                                                                                                                 \
    }

EXPORT(float, float32)
EXPORT(double, float64)
