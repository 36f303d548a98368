// Fused forms of what stock operators do in several passes over memory, for inference on a CPU (fused.py).
//
// Each function works on the items [first, last) of its outermost dimension, so that threads may share a call, and
// exists for float and double: in double it is compared with the stock form to 1e-12. Arrays are dense and row-major.
// Vectors are the compiler's own (vector_size), which it maps to whatever the machine has.

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

template <class T>
struct Wide {
    static constexpr int lanes = 64 / sizeof(T);
    typedef T V __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
    static V load(const T* from) { return *reinterpret_cast<const V*>(from); }
    static void store(T* to, V value) { *reinterpret_cast<V*>(to) = value; }
    static T sum(V value) {
        // halves are added to each other: a chain of 16 additions would take four times as long
        T part[lanes];
        store(part, value);
        for (int width = lanes / 2; width > 0; width /= 2)
            for (int i = 0; i < width; ++i) part[i] += part[i + width];
        return part[0];
    }
};

// exp for x <= 0, within a few units in the last place: 2^n e^r with |r| <= ln 2 / 2, and r's series
template <class T, class Bits, int mantissa, int bias>
inline T exp_of_negative(T x, T lowest) {
    x = x < lowest ? lowest : x;
    const T n = std::floor(x * T(1.4426950408889634) + T(0.5));
    const T r = (x - n * T(0.693145751953125)) - n * T(1.42860682030941723212e-6);
    T p = T(1.0 / 6227020800);
    constexpr double inverse_factorial[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
                                            1.0 / 5040,      1.0 / 720,      1.0 / 120,     1.0 / 24,     1.0 / 6,
                                            0.5,             1.0,            1.0};
    for (double term : inverse_factorial) p = p * r + T(term);
    union { Bits bits; T value; } scale;
    scale.bits = (Bits(n != n ? T(0) : n) + bias) << mantissa;
    return p * scale.value;
}
inline float exponential(float x) { return exp_of_negative<float, int32_t, 23, 127>(x, -87.f); }
inline double exponential(double x) { return exp_of_negative<double, int64_t, 52, 1023>(x, -708.0); }

// Sum over samples of weight times a bilinear read, each head in its own E channels (geometry.Stack.read).
template <class T, int E>
void levels_read(int64_t first, int64_t last, const T* rows, int64_t rows_per_image, int64_t items_per_image,
                 int64_t heads, int64_t samples, const T* scale_x, const T* scale_y, const T* right, const T* bottom,
                 const int64_t* stride, const int64_t* corner, const int64_t* site, const T* site_xy, const T* dx,
                 const T* dy, const T* weight, T* out) {
    using W = Wide<T>;
    constexpr int blocks = E / W::lanes;
    const int64_t total = heads * samples, width = heads * E, last_row = rows_per_image - stride[samples - 1] - 2;
    std::vector<int64_t> row(total);
    std::vector<T> corners(4 * total);
    T *upper_left = corners.data(), *upper_right = upper_left + total, *lower_left = upper_right + total,
      *lower_right = lower_left + total;
    for (int64_t item = first; item < last; ++item) {
        const T x0 = site_xy[2 * site[item]], y0 = site_xy[2 * site[item] + 1];
        for (int64_t head = 0; head < heads; ++head) {
            const T *ddx = dx + item * total + head * samples, *ddy = dy + item * total + head * samples;
            const T* a = weight + item * total + head * samples;
            for (int64_t s = 0; s < samples; ++s) {
                T x = x0 * scale_x[s] + ddx[s], y = y0 * scale_y[s] + ddy[s];
                x = x < T(-0.5) ? T(-0.5) : x > right[s] ? right[s] : x;  // NaN stays
                y = y < T(-0.5) ? T(-0.5) : y > bottom[s] ? bottom[s] : y;
                x -= T(0.5);
                y -= T(0.5);
                const T x_low = std::floor(x), y_low = std::floor(y), fx = x - x_low, fy = y - y_low;
                // NaN has no row: it takes a legal one, and reads NaN through its fractions
                int64_t at = x_low == x_low && y_low == y_low
                                 ? int64_t(int32_t(y_low)) * stride[s] + int64_t(int32_t(x_low)) + corner[s] : 0;
                at = at < 0 ? 0 : at > last_row ? last_row : at;
                const T lower = a[s] * fy, upper = a[s] - lower;
                const int64_t t = head * samples + s;
                row[t] = at;
                upper_right[t] = upper * fx;
                upper_left[t] = upper - upper_right[t];
                lower_right[t] = lower * fx;
                lower_left[t] = lower - lower_right[t];
            }
        }
        const T* image = rows + (item / items_per_image) * rows_per_image * width;
        for (int64_t head = 0; head < heads; ++head) {
            typename W::V ul[blocks] = {}, ur[blocks] = {}, ll[blocks] = {}, lr[blocks] = {};
            for (int64_t s = 0; s < samples; ++s) {
                const int64_t t = head * samples + s;
                const T *up = image + row[t] * width + head * E, *down = up + stride[s] * width;
                for (int b = 0; b < blocks; ++b) {
                    const int c = b * W::lanes;
                    ul[b] += upper_left[t] * W::load(up + c);
                    ur[b] += upper_right[t] * W::load(up + width + c);
                    ll[b] += lower_left[t] * W::load(down + c);
                    lr[b] += lower_right[t] * W::load(down + width + c);
                }
            }
            for (int b = 0; b < blocks; ++b)
                W::store(out + item * width + head * E + b * W::lanes, (ul[b] + ur[b]) + (ll[b] + lr[b]));
        }
    }
}

// Softmax attention of N heads over the tokens of one query, keys and values the tokens themselves: out = softmax(q t) t.
// Tokens lie in `parts` arrays [items, count[p], D]. Their few kilobytes stay in cache between the two passes.
template <class T, int N>
void attend(int64_t first, int64_t last, int64_t parts, const T* const* tokens, const int64_t* count, int64_t core,
            const T* query, T* out) {
    using W = Wide<T>;
    int64_t all = 0;
    for (int64_t p = 0; p < parts; ++p) all += count[p];
    std::vector<T> score(N * all);
    constexpr int together = 4;  // tokens that share a load of the query, and channels that share a load of the weights
    for (int64_t item = first; item < last; ++item) {
        const T* q = query + item * N * core;
        T* to = out + item * N * core;
        int64_t done = 0;
        for (int64_t p = 0; p < parts; ++p) {
            const T* of_part = tokens[p] + item * count[p] * core;
            for (int64_t j = 0; j < count[p]; j += together) {
                const T* t[together];
                for (int i = 0; i < together; ++i) t[i] = of_part + (j + i < count[p] ? j + i : count[p] - 1) * core;
                typename W::V sum[N][together] = {};
                for (int64_t c = 0; c < core; c += W::lanes) {
                    typename W::V at[together];
                    for (int i = 0; i < together; ++i) at[i] = W::load(t[i] + c);
                    for (int n = 0; n < N; ++n) {
                        const typename W::V of_head = W::load(q + n * core + c);
                        for (int i = 0; i < together; ++i) sum[n][i] += of_head * at[i];
                    }
                }
                for (int n = 0; n < N; ++n)
                    for (int i = 0; i < together && j + i < count[p]; ++i)
                        score[n * all + done + j + i] = W::sum(sum[n][i]);
            }
            done += count[p];
        }
        for (int n = 0; n < N; ++n) {
            T* s = score.data() + n * all;
            T most = s[0], sum = 0;
            for (int64_t j = 1; j < all; ++j) most = s[j] > most ? s[j] : most;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < all; ++j) {
                s[j] = exponential(s[j] - most);
                sum += s[j];
            }
            for (int64_t j = 0; j < all; ++j) s[j] /= sum;
        }
        for (int64_t c = 0; c < core; c += together * W::lanes) {
            const int blocks = int((core - c) / W::lanes < together ? (core - c) / W::lanes : together);
            typename W::V sum[N][together] = {};
            done = 0;
            for (int64_t p = 0; p < parts; ++p) {
                const T* t = tokens[p] + item * count[p] * core + c;
                for (int64_t j = 0; j < count[p]; ++j, t += core)
                    for (int n = 0; n < N; ++n) {
                        const T weight = score[n * all + done + j];
                        for (int b = 0; b < together; ++b)
                            if (b < blocks) sum[n][b] += weight * W::load(t + b * W::lanes);
                    }
                done += count[p];
            }
            for (int n = 0; n < N; ++n)
                for (int b = 0; b < blocks; ++b) W::store(to + n * core + c + b * W::lanes, sum[n][b]);
        }
    }
}

}  // namespace

#define EXPORT(T, NAME)                                                                                               \
    extern "C" void levels_read_##NAME(                                                                               \
        int64_t first, int64_t last, const T* rows, int64_t rows_per_image, int64_t items_per_image, int64_t heads,   \
        int64_t samples, const T* scale_x, const T* scale_y, const T* right, const T* bottom, const int64_t* stride,  \
        const int64_t* corner, const int64_t* site, const T* site_xy, const T* dx, const T* dy, const T* weight,      \
        T* out) {                                                                                                     \
        levels_read<T, 32>(first, last, rows, rows_per_image, items_per_image, heads, samples, scale_x, scale_y,      \
                           right, bottom, stride, corner, site, site_xy, dx, dy, weight, out);                        \
    }                                                                                                                 \
    extern "C" void attend_##NAME(int64_t first, int64_t last, int64_t parts, const T* const* tokens,                 \
                                  const int64_t* count, int64_t core, const T* query, T* out) {                       \
        attend<T, 6>(first, last, parts, tokens, count, core, query, out);                                            \
    }

EXPORT(float, float32)
EXPORT(double, float64)
