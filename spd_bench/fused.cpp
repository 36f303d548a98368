// Fused forms of what stock operators do in several passes over memory, for inference on a CPU (fused.py).
//
// Each kernel works on the items [first, last) of its outermost dimension, so that threads may share a call, and
// exists for float and double: in double it is compared with the stock form to 1e-12. Arrays are dense and row-major
// where no stride is given. Vectors are the compiler's own (vector_size), as wide as the machine's.
// Letters as in fused.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, heads_at_once = 6;
#elif defined(__AVX__)
constexpr int vector_bytes = 32, heads_at_once = 2;
#else
constexpr int vector_bytes = 16, heads_at_once = 2;
#endif

constexpr int HEADS = 6, WIDTH = 32, CORE = HEADS * WIDTH;
constexpr double LAYER_NORM_EPSILON = 1e-5;

// --- vectors --------------------------------------------------------------------------------------------------------

template <class T>
struct Of;
template <>
struct Of<float> {
    using Int = int32_t;
    using Bits = uint32_t;
    static constexpr int mantissa = 23, bias = 127, exp_terms = 8;
    static constexpr float lowest_exponent = -87;
};
template <>
struct Of<double> {
    using Int = int64_t;
    using Bits = uint64_t;
    static constexpr int mantissa = 52, bias = 1023, exp_terms = 14;
    static constexpr double lowest_exponent = -708;
};

template <class T>
struct Wide {
    static constexpr int lanes = vector_bytes / sizeof(T);
    typedef T V __attribute__((vector_size(vector_bytes)));
    typedef T Loose __attribute__((vector_size(vector_bytes), aligned(sizeof(T)), may_alias));
    typedef typename Of<T>::Int I __attribute__((vector_size(vector_bytes)));
    typedef typename Of<T>::Bits U __attribute__((vector_size(vector_bytes)));
    typedef typename Of<T>::Int LooseI __attribute__((vector_size(vector_bytes), aligned(sizeof(T)), may_alias));
    static V load(const T* from) { return *reinterpret_cast<const Loose*>(from); }
    static void store(T* to, V value) { *reinterpret_cast<Loose*>(to) = value; }
    static I load_whole(const typename Of<T>::Int* from) { return *reinterpret_cast<const LooseI*>(from); }
    static void store_whole(typename Of<T>::Int* to, I value) { *reinterpret_cast<LooseI*>(to) = value; }
    static V all(T value) { return value - V{}; }
    // halves are added to each other: a chain of additions would take four times as long
    static T sum(V value) {
        T part[lanes];
        store(part, value);
        for (int width = lanes / 2; width > 0; width /= 2)
            for (int i = 0; i < width; ++i) part[i] += part[i + width];
        return part[0];
    }
};

// A comparison with NaN is false, so NaN stays NaN in both.
template <class V>
inline V at_least(V x, V low) {
    return x < low ? low : x;
}
template <class V>
inline V at_most(V x, V high) {
    return x > high ? high : x;
}

constexpr double reciprocal_factorial(int n) { return n < 2 ? 1.0 : reciprocal_factorial(n - 1) / n; }

// e^x for x <= 0, to a few units in the last place: 2^n e^r with |r| <= ln 2 / 2, and r's series
template <class T>
inline typename Wide<T>::V exponential(typename Wide<T>::V x) {
    using W = Wide<T>;
    using V = typename W::V;
    using O = Of<T>;
    x = at_least(x, W::all(O::lowest_exponent));
    const T whole = T(1.5) * T(typename O::Bits(1) << O::mantissa);  // added, it leaves n in the lowest bits
    const V shifted = x * T(1.4426950408889634) + whole;
    const V n = shifted - whole;
    const V r = (x - n * T(0.693145751953125)) - n * T(1.42860682030941723212e-6);
    V p = W::all(T(reciprocal_factorial(O::exp_terms - 1)));
    for (int term = O::exp_terms - 2; term >= 0; --term) p = p * r + T(reciprocal_factorial(term));
    const typename W::U bits = ((typename W::U)shifted << O::mantissa) + (typename O::Bits(O::bias) << O::mantissa);
    return p * (V)bits;
}

// x Φ(x). In float erf(x / √2) / x is a polynomial in x², fitted for |x| < 5.2, beyond which erf is one.
template <class T>
inline typename Wide<T>::V gelu(typename Wide<T>::V x) {
    using W = Wide<T>;
    using V = typename W::V;
    const V half = x * T(0.5);
    if constexpr (sizeof(T) == 8) {
        V out;
        for (int i = 0; i < W::lanes; ++i) out[i] = half[i] * (1 + std::erf(x[i] * 0.70710678118654752440));
        return out;
    } else {
        constexpr float reach = 5.2f;
        constexpr float coefficients[] = {0.00040203742f, -0.00112770811f, 0.00121438512f, -0.00194917744f, 0.00530331361f, -0.0101419154f, 0.0160370933f, -0.0247038367f, 0.0362613162f, -0.0495273726f, 0.0639258072f, -0.0798507754f, 0.100052145f, -0.135487611f, 0.271899957f};
        const V t = x * x * (2 / (reach * reach)) - 1.0f;
        V p = W::all(coefficients[0]);
        for (int i = 1; i < int(sizeof(coefficients) / sizeof(float)); ++i) p = p * t + coefficients[i];
        const V one = W::all(1.0f), erf = x > reach ? one : x < -reach ? -one : x * p;
        return half + half * erf;
    }
}

// A row of D channels in registers.
template <class T>
struct Row {
    using W = Wide<T>;
    static constexpr int blocks = CORE / W::lanes;
    typename W::V part[blocks];

    static Row load(const T* from) {
        Row row;
        for (int b = 0; b < blocks; ++b) row.part[b] = W::load(from + b * W::lanes);
        return row;
    }
    void store(T* to) const {
        for (int b = 0; b < blocks; ++b) W::store(to + b * W::lanes, part[b]);
    }
    void add(const T* from) {
        for (int b = 0; b < blocks; ++b) part[b] += W::load(from + b * W::lanes);
    }
    void apply_gelu() {
        for (int b = 0; b < blocks; ++b) part[b] = gelu<T>(part[b]);
    }
    // LayerNorm without its affine part
    void standardise() {
        typename W::V total = part[0];
        for (int b = 1; b < blocks; ++b) total += part[b];
        const T mean = W::sum(total) / CORE;
        typename W::V squares = {};
        for (int b = 0; b < blocks; ++b) {
            part[b] -= mean;
            squares += part[b] * part[b];
        }
        const T scale = 1 / std::sqrt(W::sum(squares) / CORE + T(LAYER_NORM_EPSILON));
        for (int b = 0; b < blocks; ++b) part[b] *= scale;
    }
};

// --- small things ---------------------------------------------------------------------------------------------------

template <class T>
void gelu_in_place(int64_t first, int64_t last, int64_t size, T* values) {
    using W = Wide<T>;
    T* const end = values + last * size;
    T* at = values + first * size;
    for (; at + W::lanes <= end; at += W::lanes) W::store(at, gelu<T>(W::load(at)));
    if (at < end) {
        T rest[W::lanes] = {};
        std::copy(at, end, rest);
        W::store(rest, gelu<T>(W::load(rest)));
        std::copy(rest, rest + (end - at), at);
    }
}

template <class T>
void standardise(int64_t first, int64_t last, const T* rows, const T* plus, T* out) {
    for (int64_t item = first; item < last; ++item) {
        Row<T> row = Row<T>::load(rows + item * CORE);
        if (plus) row.add(plus);
        row.standardise();
        row.store(out + item * CORE);
    }
}

// The R largest of each item's S weights, largest first, of equal ones the first; NaN counts as the largest.
template <class T>
void largest(int64_t first, int64_t last, int64_t sites, int64_t wanted, const T* weight, int64_t* out) {
    using Bits = typename Of<T>::Bits;
    struct Ranked {
        Bits weight;
        int64_t site;
    };
    constexpr Bits sign = Bits(1) << (8 * sizeof(T) - 1);
    const auto before = [](const Ranked& a, const Ranked& b) {
        return a.weight > b.weight || (a.weight == b.weight && a.site < b.site);
    };
    std::vector<Ranked> ranked(sites);
    for (int64_t item = first; item < last; ++item) {
        for (int64_t s = 0; s < sites; ++s) {
            const T value = weight[item * sites + s] + T(0);  // makes -0 the same as 0
            Bits bits;
            std::memcpy(&bits, &value, sizeof bits);
            // as whole numbers these bits are in the order of the values
            ranked[s] = {value != value ? ~Bits(0) : bits & sign ? ~bits : bits | sign, s};
        }
        std::nth_element(ranked.begin(), ranked.begin() + (wanted - 1), ranked.end(), before);
        std::sort(ranked.begin(), ranked.begin() + wanted, before);
        for (int64_t r = 0; r < wanted; ++r) out[item * wanted + r] = ranked[r].site;
    }
}

// --- B1 -------------------------------------------------------------------------------------------------------------

// Bilinear reads at SIDE x SIDE places one cell apart (geometry.Table.read_neighbourhood). All share their fractions:
// lines are interpolated along x, then neighbouring lines along y. With `plus`, of D channels, standardised after it.
template <class T, int SIDE>
void neighbourhood(int64_t first, int64_t last, const T* rows, int64_t rows_per_map, int64_t items_per_map,
                   int64_t channels, int64_t width, int64_t height, int64_t pad, const T* xy, const T* plus, T* out,
                   int64_t out_stride) {
    using W = Wide<T>;
    using V = typename W::V;
    const int64_t stride = width + 2 * pad;
    const int64_t lowest = (pad - 1) * (stride + 1), highest = (height + pad) * stride + width + pad;
    for (int64_t item = first; item < last; ++item) {
        T x = xy[2 * item], y = xy[2 * item + 1];
        x = at_most(at_least(x, T(-0.5)), T(width) + T(0.5)) - T(0.5);
        y = at_most(at_least(y, T(-0.5)), T(height) + T(0.5)) - T(0.5);
        const T x_low = std::floor(x), y_low = std::floor(y), fx = x - x_low, fy = y - y_low;
        // NaN has no row: it takes a legal one, and reads NaN through its fractions
        const bool legal = x == x && y == y;
        int64_t at = legal ? (int64_t(y_low) + pad) * stride + int64_t(x_low) + pad : lowest;
        at = std::min(std::max(at, lowest), highest) - (SIDE / 2) * (stride + 1);
        const T* corner = rows + ((item / items_per_map) * rows_per_map + at) * channels;
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

// --- B4 -------------------------------------------------------------------------------------------------------------

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

// Sum over samples of softmax(score) times a bilinear read, each head in its own E channels (geometry.Stack).
template <class T>
void levels_read(int64_t first, int64_t last, const T* rows, int64_t rows_per_image, int64_t items_per_image,
                 int64_t samples, const T* level, const int32_t* stride_corner, const int64_t* site, const T* site_xy,
                 const T* dx, const T* dy, int64_t item_step, int64_t step, const T* score, int64_t score_step, T* out) {
    using W = Wide<T>;
    using V = typename W::V;
    using I = typename W::I;
    using Int = typename Of<T>::Int;
    constexpr int blocks = WIDTH / W::lanes;
    const int64_t total = HEADS * samples, padded = (total + W::lanes - 1) / W::lanes * W::lanes;
    // what depends on the sample alone: cells per image, reach, row stride and first row of its level
    std::vector<T> constant(4 * padded), work(8 * padded);
    std::vector<Int> whole(3 * padded);
    T *scale_x = constant.data(), *scale_y = scale_x + padded, *right = scale_y + padded, *bottom = right + padded;
    T *x_at = work.data(), *y_at = x_at + padded, *share = y_at + padded, *ul = share + padded, *ur = ul + padded,
      *ll = ur + padded, *lr = ll + padded;
    Int *stride = whole.data(), *corner = stride + padded, *row = corner + padded;
    for (int64_t t = 0; t < total; ++t) {
        const int64_t s = t % samples;
        scale_x[t] = level[s], scale_y[t] = level[samples + s];
        right[t] = level[2 * samples + s], bottom[t] = level[3 * samples + s];
        stride[t] = stride_corner[s], corner[t] = stride_corner[samples + s];
    }
    const Int last_row = Int(rows_per_image) - stride[samples - 1] - 2;
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
            x = at_most(at_least(x, W::all(T(-0.5))), W::load(right + t)) - T(0.5);
            y = at_most(at_least(y, W::all(T(-0.5))), W::load(bottom + t)) - T(0.5);
            I column = __builtin_convertvector(x, I), line = __builtin_convertvector(y, I);
            column += x < __builtin_convertvector(column, V);  // towards zero becomes down: true is -1
            line += y < __builtin_convertvector(line, V);
            const V fx = x - __builtin_convertvector(column, V), fy = y - __builtin_convertvector(line, V);
            // NaN has no row: it takes a legal one, and reads NaN through its fractions
            const I at = line * W::load_whole(stride + t) + column + W::load_whole(corner + t);
            W::store_whole(row + t, at_most(at_least(at, I{}), last_row - I{}));
            const V a = W::load(share + t), lower = a * fy, upper = a - lower;
            const V upper_right = upper * fx, lower_right = lower * fx;
            W::store(ur + t, upper_right);
            W::store(ul + t, upper - upper_right);
            W::store(lr + t, lower_right);
            W::store(ll + t, lower - lower_right);
        }
        const T* image = rows + (item / items_per_image) * rows_per_image * CORE;
        for (int head = 0; head < HEADS; ++head) {
            V sum_ul[blocks] = {}, sum_ur[blocks] = {}, sum_ll[blocks] = {}, sum_lr[blocks] = {};
            for (int64_t t = head * samples; t < (head + 1) * samples; ++t) {
                const T *up = image + int64_t(row[t]) * CORE + head * WIDTH, *down = up + int64_t(stride[t]) * CORE;
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

// --- B2 and B5 ------------------------------------------------------------------------------------------------------

constexpr int together = 4;  // tokens that share a load of the query, and vectors that share a load of the weights

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLES
#endif
#endif

// The sums of four vectors.
template <class T>
inline void sums_of_four(const typename Wide<T>::V* of, T* to) {
    for (int i = 0; i < together; ++i) to[i] = Wide<T>::sum(of[i]);
}
#ifdef HAS_SHUFFLES
// Within each 128 bits the four are transposed as they are added up, in 6 shuffles instead of 16.
template <size_t... lane>
inline void sums_of_four_floats(const Wide<float>::V* of, float* to, std::index_sequence<lane...>) {
    using V = Wide<float>::V;
    constexpr int lanes = Wide<float>::lanes;
#define LOW_PAIRS(a, b) __builtin_shufflevector(a, b, (int((lane & ~3) + (lane & 3) / 2 + (lane & 1) * lanes))...)
#define HIGH_PAIRS(a, b) __builtin_shufflevector(a, b, (int((lane & ~3) + 2 + (lane & 3) / 2 + (lane & 1) * lanes))...)
#define LOW_HALVES(a, b) __builtin_shufflevector(a, b, (int((lane & ~3) + (lane & 1) + (lane & 2) / 2 * lanes))...)
#define HIGH_HALVES(a, b) __builtin_shufflevector(a, b, (int((lane & ~3) + 2 + (lane & 1) + (lane & 2) / 2 * lanes))...)
    const V first = LOW_PAIRS(of[0], of[1]) + HIGH_PAIRS(of[0], of[1]);
    const V second = LOW_PAIRS(of[2], of[3]) + HIGH_PAIRS(of[2], of[3]);
    const V all = LOW_HALVES(first, second) + HIGH_HALVES(first, second);
    float part[lanes];
    Wide<float>::store(part, all);
    for (int i = 0; i < together; ++i) {
        float sum = part[i];
        for (int j = together; j < lanes; j += together) sum += part[i + j];
        to[i] = sum;
    }
}
template <>
inline void sums_of_four<float>(const Wide<float>::V* of, float* to) {
    sums_of_four_floats(of, to, std::make_index_sequence<Wide<float>::lanes>());
}
#endif

// Softmax attention of the heads over the tokens of one query, keys and values the tokens themselves. Tokens lie in
// `parts` arrays [items, count[p], D]; query and out are [N, items, D]. What is read twice is still in cache.
template <class T>
void attend(int64_t first, int64_t last, int64_t items, int64_t parts, const T* const* tokens, const int64_t* count,
            const T* query, T* out) {
    using W = Wide<T>;
    using V = typename W::V;
    int64_t all = 0;
    for (int64_t p = 0; p < parts; ++p) all += count[p];
    const int64_t room = (all + W::lanes + together) / W::lanes * W::lanes;
    const T scale = 1 / std::sqrt(T(WIDTH));
    std::vector<T> score(HEADS * room);
    std::vector<const T*> token;
    std::vector<int64_t> hop;  // to the same token of the next item
    for (int64_t p = 0; p < parts; ++p)
        for (int64_t j = 0; j < count[p]; ++j) {
            token.push_back(tokens[p] + (first * count[p] + j) * CORE);
            hop.push_back(count[p] * CORE);
        }
    token.resize(all + together, token.back());
    hop.resize(all + together, hop.back());
    for (int64_t item = first; item < last; ++item) {
        for (int64_t j = 0; j < all; j += together) {
            for (int64_t i = j; i < j + together && item + 1 < last; ++i)
                for (int c = 0; c < CORE / 2; c += 64 / sizeof(T)) __builtin_prefetch(token[i] + hop[i] + c, 0, 2);
            for (int head = 0; head < HEADS; head += heads_at_once) {
                V sum[heads_at_once][together] = {};
                for (int c = 0; c < CORE; c += W::lanes) {
                    V at[together];
                    for (int i = 0; i < together; ++i) at[i] = W::load(token[j + i] + c);
                    for (int n = 0; n < heads_at_once; ++n) {
                        const V of_head = W::load(query + ((head + n) * items + item) * CORE + c);
                        for (int i = 0; i < together; ++i) sum[n][i] += of_head * at[i];
                    }
                }
                for (int n = 0; n < heads_at_once; ++n) sums_of_four<T>(sum[n], score.data() + (head + n) * room + j);
            }
        }
        for (int head = 0; head < HEADS; ++head) {
            T* s = score.data() + head * room;
            T most = s[0];
            for (int64_t j = 1; j < all; ++j) most = s[j] > most ? s[j] : most;
            for (int64_t j = all; j < room; ++j) s[j] = -INFINITY;
            V sums = {};
            for (int64_t j = 0; j < room; j += W::lanes) {
                const V raised = exponential<T>((W::load(s + j) - most) * scale);
                W::store(s + j, raised);
                sums += raised;
            }
            const T one = 1 / W::sum(sums);
            for (int64_t j = 0; j < room; j += W::lanes) W::store(s + j, W::load(s + j) * one);
        }
        for (int head = 0; head < HEADS; head += heads_at_once)
            for (int c = 0; c < CORE; c += together * W::lanes) {
                V sum[heads_at_once][together] = {};
                for (int64_t j = 0; j < all; ++j) {
                    for (int i = 0; i < together * W::lanes / 2 && item + 1 < last; i += 64 / sizeof(T))
                        __builtin_prefetch(token[j] + hop[j] + (CORE + c) / 2 + i, 0, 2);
                    V at[together];
                    for (int b = 0; b < together; ++b) at[b] = W::load(token[j] + c + b * W::lanes);
                    for (int n = 0; n < heads_at_once; ++n)
                        for (int b = 0; b < together; ++b) sum[n][b] += score[(head + n) * room + j] * at[b];
                }
                for (int n = 0; n < heads_at_once; ++n)
                    for (int b = 0; b < together; ++b)
                        W::store(out + ((head + n) * items + item) * CORE + c + b * W::lanes, sum[n][b]);
            }
        for (int64_t j = 0; j < all + together; ++j) token[j] += hop[j];
    }
}

}  // namespace

#define EXPORT(T, NAME)                                                                                               \
    extern "C" {                                                                                                      \
    void gelu_##NAME(int64_t first, int64_t last, int64_t size, T* values) {                                          \
        gelu_in_place(first, last, size, values);                                                                     \
    }                                                                                                                 \
    void standardise_##NAME(int64_t first, int64_t last, const T* rows, const T* plus, T* out) {                      \
        standardise(first, last, rows, plus, out);                                                                    \
    }                                                                                                                 \
    void largest_##NAME(int64_t first, int64_t last, int64_t sites, int64_t wanted, const T* weight, int64_t* out) {  \
        largest(first, last, sites, wanted, weight, out);                                                             \
    }                                                                                                                 \
    void neighbourhood_##NAME(int64_t first, int64_t last, int64_t side, const T* rows, int64_t rows_per_map,         \
                              int64_t items_per_map, int64_t channels, int64_t width, int64_t height, int64_t pad,    \
                              const T* xy, const T* plus, T* out, int64_t out_stride) {                               \
        const auto of = side == 5 ? neighbourhood<T, 5> : side == 3 ? neighbourhood<T, 3> : neighbourhood<T, 1>;      \
        of(first, last, rows, rows_per_map, items_per_map, channels, width, height, pad, xy, plus, out, out_stride);  \
    }                                                                                                                 \
    void gelu_tokens_##NAME(int64_t first, int64_t last, int64_t tokens, const T* x, int64_t shared,                  \
                            const T* shared_shift, const T* own_shift, const T* plus, T* out, int64_t out_stride) {   \
        gelu_tokens(first, last, tokens, x, shared, shared_shift, own_shift, plus, out, out_stride);                  \
    }                                                                                                                 \
    void condition_##NAME(int64_t first, int64_t last, int64_t anchors, int64_t queries_per_image, int64_t sites,     \
                          int64_t freq, const int64_t* site, const T* of_query, const T* of_site,                     \
                          const T* query_code, const T* site_code, const T* weight, const T* norm_weight,             \
                          const T* norm_bias, T* out) {                                                               \
        condition(first, last, anchors, queries_per_image, sites, freq, site, of_query, of_site, query_code,          \
                  site_code, weight, norm_weight, norm_bias, out);                                                    \
    }                                                                                                                 \
    void levels_read_##NAME(int64_t first, int64_t last, const T* rows, int64_t rows_per_image,                       \
                            int64_t items_per_image, int64_t samples, const T* level, const int32_t* stride_corner,   \
                            const int64_t* site, const T* site_xy, const T* dx, const T* dy, int64_t item_step,       \
                            int64_t step, const T* score, int64_t score_step, T* out) {                                                   \
        levels_read(first, last, rows, rows_per_image, items_per_image, samples, level, stride_corner, site,          \
                    site_xy, dx, dy, item_step, step, score, score_step, out);                                                    \
    }                                                                                                                 \
    void attend_##NAME(int64_t first, int64_t last, int64_t items, int64_t parts, const T* const* tokens,             \
                       const int64_t* count, const T* query, T* out) {                                                \
        attend(first, last, items, parts, tokens, count, query, out);                                                 \
    }                                                                                                                 \
    }

EXPORT(float, float32)
EXPORT(double, float64)
