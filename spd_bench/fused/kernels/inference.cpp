// Fused forms of what stock operators do in several passes over memory, for inference on a CPU (../fused.py).
//
// Each kernel works on the items [first, last) of its outermost dimension, so that threads may share a call, and
// exists for float and double: in double it is compared with the stock form to 1e-12. Arrays are dense and row-major
// where no stride is given.

#include "anchors.h"
#include "layers.h"
#include "levels.h"
#include "tokens.h"

#define EXPORT(T, NAME)                                                                                               \
    extern "C" {                                                                                                      \
    void linear_of_many_##NAME(int64_t first, int64_t last, int64_t channels, int64_t columns, const T* x,            \
                               const T* weight, const T* bias, T* out) {                                              \
        linear_of_many(first, last, channels, columns, x, weight, bias, out);                                         \
    }                                                                                                                 \
    void standardise_##NAME(int64_t first, int64_t last, const T* rows, T* out) {                                     \
        standardise(first, last, rows, out);                                                                          \
    }                                                                                                                 \
    void largest_##NAME(int64_t first, int64_t last, int64_t sites, int64_t wanted, const T* weight, int64_t* out) {  \
        largest(first, last, sites, wanted, weight, out);                                                             \
    }                                                                                                                 \
    void enlarged_norm_##NAME(int64_t first, int64_t last, int64_t channels, int64_t height, int64_t width,           \
                              int64_t factor, int64_t pad, const T* coarse, const T* plus, const T* weight,           \
                              const T* bias, T* out) {                                                                \
        const auto of = channels == FINE  ? enlarged_norm<T, FINE>                                                    \
                        : channels == LOW ? enlarged_norm<T, LOW>                                                     \
                                          : enlarged_norm<T, CORE>;                                                   \
        of(first, last, height, width, factor, pad, coarse, plus, weight, bias, out);                                 \
    }                                                                                                                 \
    void enlarged_spread_##NAME(int64_t first, int64_t last, int64_t channels, int64_t height, int64_t width,         \
                                int64_t factor, const T* coarse, const T* plus, T* out) {                             \
        const auto of = channels == FINE  ? enlarged_spread<T, FINE>                                                  \
                        : channels == LOW ? enlarged_spread<T, LOW>                                                   \
                                          : enlarged_spread<T, CORE>;                                                 \
        of(first, last, height, width, factor, coarse, plus, out);                                                    \
    }                                                                                                                 \
    void enlarged_product_##NAME(int64_t first, int64_t last, int64_t height, int64_t width, int64_t factor,          \
                                 int64_t pad, const T* coarse, const T* plus, const T* scale, const T* shift,         \
                                 T* out) {                                                                            \
        enlarged_product(first, last, height, width, factor, pad, coarse, plus, scale, shift, out);                   \
    }                                                                                                                 \
    void neighbourhood_##NAME(int64_t first, int64_t last, int64_t side, const T* rows, int64_t rows_per_map,         \
                              int64_t items_per_map, int64_t channels, int64_t width, int64_t height, int64_t pad,    \
                              const T* xy, T* out) {                                                                  \
        neighbourhood<T>(first, last, side, {rows, rows_per_map, channels, width, height, pad}, items_per_map, xy, out);\
    }                                                                                                                 \
    void local_tokens_##NAME(int64_t first, int64_t last, int64_t items_per_map, const T* xy, int64_t levels,         \
                             const T* const* rows, const int64_t* sizes, const int64_t* sides, const T* scale,        \
                             const int64_t* counts, const T* const* weights, T* seed, T* out) {                       \
        std::vector<Map<T>> maps;                                                                                     \
        for (int64_t l = 0; l < levels; ++l, sizes += 5)                                                              \
            maps.push_back({rows[l], sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]});                              \
        local_tokens<T>(first, last, items_per_map, xy, levels, maps.data(), sides, scale,                            \
                        {counts[0], counts[1], counts[2], counts[3], counts[4], counts[5], scale[2 * levels], weights[0],\
                         weights[1], weights[2], weights[3], weights[4], weights[5], weights[6], weights[7],          \
                         weights[8]},                                                                                 \
                        seed, out);                                                                                   \
    }                                                                                                                 \
    void condition_##NAME(int64_t first, int64_t last, int64_t anchors, int64_t queries_per_image, int64_t sites,     \
                          int64_t freq, const int64_t* site, const T* of_query, const T* of_site,                     \
                          const T* query_code, const T* site_code, const T* weight, const T* norm_weight,             \
                          const T* norm_bias, T* out) {                                                               \
        condition<T>(first, last,                                                                                     \
                     {anchors, queries_per_image, sites, freq, site, of_query, of_site, query_code, site_code,        \
                      weight, norm_weight, norm_bias},                                                                \
                     out);                                                                                            \
    }                                                                                                                 \
    void evidence_##NAME(int64_t first, int64_t last, int64_t anchors, int64_t queries_per_image, int64_t sites,      \
                         int64_t freq, const int64_t* site, const T* of_query, const T* of_site,                      \
                         const T* query_code, const T* site_code, const T* weight, const T* norm_weight,              \
                         const T* norm_bias, int64_t columns, const T* joint, const T* bias, const T* fixed,          \
                         const T* out_weight, const T* plus, int64_t samples, const T* const* rows,                   \
                         const int64_t* rows_per_map, const T* level, const int32_t* places, const T* site_xy,        \
                         T* out) {                                                                                    \
        evidence<T>(first, last,                                                                                      \
                    {anchors, queries_per_image, sites, freq, site, of_query, of_site, query_code, site_code,         \
                     weight, norm_weight, norm_bias},                                                                 \
                    {columns, joint, bias, fixed, out_weight, plus}, samples, rows, rows_per_map, level, places,      \
                    site_xy, out);                                                                                    \
    }                                                                                                                 \
    void levels_read_##NAME(int64_t first, int64_t last, int64_t samples, const T* const* rows,                       \
                            const int64_t* rows_per_map, const T* level, const int32_t* places,                       \
                            int64_t items_per_image, const int64_t* site, const T* site_xy, const T* dx, const T* dy, \
                            int64_t item_step, int64_t step, const T* score, int64_t score_step, T* out) {            \
        levels_read(first, last, samples, rows, rows_per_map, level, places, items_per_image, site, site_xy, dx, dy,  \
                    item_step, step, score, score_step, out);                                                         \
    }                                                                                                                 \
    void perceptron_##NAME(int64_t first, int64_t last, int64_t hidden, int64_t outputs, const T* wide_weight,        \
                           const T* wide_bias, const T* narrow_weight, const T* narrow_bias, const T* h, T* out) {    \
        perceptron(first, last, hidden, outputs, wide_weight, wide_bias, narrow_weight, narrow_bias, h, out);         \
    }                                                                                                                 \
    void token_layer_##NAME(int64_t first, int64_t last, int64_t parts, const T* const* tokens,                       \
                            const int64_t* count, int64_t hidden, const Layer<T>* layer, const T* key,                \
                            const T* value, const T* shift, const T* h, T* out) {                                     \
        token_layer(first, last, parts, tokens, count, hidden, *layer, key, value, shift, h, out);                    \
    }                                                                                                                 \
    void site_layer_##NAME(int64_t first, int64_t last, int64_t items_per_image, int64_t sites, int64_t hidden,       \
                           const Layer<T>* layer, const T* added_query, const T* key, const T* value, const T* h,     \
                           T* out, T* weights) {                                                                      \
        site_layer(first, last, items_per_image, sites, hidden, *layer, added_query, key, value, h, out, weights);    \
    }                                                                                                                 \
    }

EXPORT(float, float32)
EXPORT(double, float64)
