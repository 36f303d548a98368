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

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, heads_at_once = 6;
#elif defined(__AVX__)
constexpr int vector_bytes = 32, heads_at_once = 2;
#else
constexpr int vector_bytes = 16, heads_at_once = 2;
#endif

constexpr int HEADS = 6, WIDTH = 32, CORE = HEADS * WIDTH;
constexpr int FINE = 64, LOW = 128;  // channels of L1 and L2
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
    // past the caches, to an address that is a multiple of a vector's size; `streamed` before another thread may read it
    static void stream(T* to, V value) {
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)value);
#elif defined(__AVX__)
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)value);
#elif defined(__SSE2__)
        _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)value);
#else
        store(to, value);
#endif
    }
    static void streamed() {
#if defined(__SSE2__)
        _mm_sfence();
#endif
    }
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

// A row of channels in registers.
template <class T, int SIZE = CORE>
struct Row {
    using W = Wide<T>;
    static constexpr int blocks = SIZE / W::lanes;
    typename W::V part[blocks];

    static Row load(const T* from) {
        Row row;
        for (int b = 0; b < blocks; ++b) row.part[b] = W::load(from + b * W::lanes);
        return row;
    }
    void store(T* to) const {
        for (int b = 0; b < blocks; ++b) W::store(to + b * W::lanes, part[b]);
    }
    void stream(T* to) const {
        for (int b = 0; b < blocks; ++b) W::stream(to + b * W::lanes, part[b]);
    }
    void add(const T* from) {
        for (int b = 0; b < blocks; ++b) part[b] += W::load(from + b * W::lanes);
    }
    // `share` of `right`, the rest of `left`
    static Row between(const T* left, const T* right, T share) {
        if (share == 0) return load(left);
        Row row;
        for (int b = 0; b < blocks; ++b)
            row.part[b] = (1 - share) * W::load(left + b * W::lanes) + share * W::load(right + b * W::lanes);
        return row;
    }
    void scale_and_shift(T scale, const T* shift) {
        for (int b = 0; b < blocks; ++b) part[b] = part[b] * scale + W::load(shift + b * W::lanes);
    }
    void scale_and_shift(T spread, const T* scale, const T* shift) {
        for (int b = 0; b < blocks; ++b)
            part[b] = part[b] * (spread * W::load(scale + b * W::lanes)) + W::load(shift + b * W::lanes);
    }
    void scale_and_shift(const T* scale, const T* shift) {
        for (int b = 0; b < blocks; ++b)
            part[b] = part[b] * W::load(scale + b * W::lanes) + W::load(shift + b * W::lanes);
    }
    // 1 / standard deviation, of a row whose mean is 0
    T inverse_spread() const {
        typename W::V squares = {};
        for (int b = 0; b < blocks; ++b) squares += part[b] * part[b];
        return 1 / std::sqrt(W::sum(squares) / SIZE + T(LAYER_NORM_EPSILON));
    }
    void apply_gelu() {
        for (int b = 0; b < blocks; ++b) part[b] = gelu<T>(part[b]);
    }
    // LayerNorm without its affine part; what was multiplied by
    T standardise() {
        typename W::V total = part[0];
        for (int b = 1; b < blocks; ++b) total += part[b];
        const T mean = W::sum(total) / SIZE;
        for (int b = 0; b < blocks; ++b) part[b] -= mean;
        const T scale = inverse_spread();
        for (int b = 0; b < blocks; ++b) part[b] *= scale;
        return scale;
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

// --- the neck's finer levels ------------------------------------------------------------------------------------------

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

// --- B1 -------------------------------------------------------------------------------------------------------------

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

// The tokens of one item after the other. They lie in `parts` arrays [items, count[p], D].
template <class T>
struct Tokens {
    using W = Wide<T>;
    using V = typename W::V;
    int64_t all = 0, room;     // tokens of an item, and numbers kept for each head: whole vectors
    std::vector<const T*> at;  // each token of this item
    std::vector<int64_t> hop;  // to the same token of the next

    Tokens(int64_t first, int64_t parts, const T* const* tokens, const int64_t* count) {
        for (int64_t p = 0; p < parts; ++p)
            for (int64_t j = 0; j < count[p]; ++j, ++all) {
                at.push_back(tokens[p] + (first * count[p] + j) * CORE);
                hop.push_back(count[p] * CORE);
            }
        at.resize(all + together, at.back());
        hop.resize(all + together, hop.back());
        room = (all + W::lanes + together) / W::lanes * W::lanes;
    }
    void next() {
        for (int64_t j = 0; j < all + together; ++j) at[j] += hop[j];
    }
    // to[n][j] = of[n] · token j. Half of every token of the next item is fetched.
    void products(const T* of, int64_t step, T* to, bool fetch) const {
        for (int64_t j = 0; j < all; j += together) {
            for (int64_t i = j; i < j + together && fetch; ++i)
                for (int c = 0; c < CORE / 2; c += 64 / sizeof(T)) __builtin_prefetch(at[i] + hop[i] + c, 0, 2);
            for (int head = 0; head < HEADS; head += heads_at_once) {
                V sum[heads_at_once][together] = {};
                for (int c = 0; c < CORE; c += W::lanes) {
                    V token[together];
                    for (int i = 0; i < together; ++i) token[i] = W::load(at[j + i] + c);
                    for (int n = 0; n < heads_at_once; ++n) {
                        const V of_head = W::load(of + (head + n) * step + c);
                        for (int i = 0; i < together; ++i) sum[n][i] += of_head * token[i];
                    }
                }
                for (int n = 0; n < heads_at_once; ++n) sums_of_four<T>(sum[n], to + (head + n) * room + j);
            }
        }
    }
    // to[n] = sum over j of share[n][j] times token j. The other half is fetched.
    void mixture(const T* share, T* to, int64_t step, bool fetch) const {
        for (int head = 0; head < HEADS; head += heads_at_once)
            for (int c = 0; c < CORE; c += together * W::lanes) {
                V sum[heads_at_once][together] = {};
                for (int64_t j = 0; j < all; ++j) {
                    for (int i = 0; i < together * W::lanes / 2 && fetch; i += 64 / sizeof(T))
                        __builtin_prefetch(at[j] + hop[j] + (CORE + c) / 2 + i, 0, 2);
                    V token[together];
                    for (int b = 0; b < together; ++b) token[b] = W::load(at[j] + c + b * W::lanes);
                    for (int n = 0; n < heads_at_once; ++n)
                        for (int b = 0; b < together; ++b) sum[n][b] += share[(head + n) * room + j] * token[b];
                }
                for (int n = 0; n < heads_at_once; ++n)
                    for (int b = 0; b < together; ++b)
                        W::store(to + (head + n) * step + c + b * W::lanes, sum[n][b]);
            }
    }
    // Of each head the softmax of the scaled scores, 0 beyond the tokens.
    void softmax(T scale, T* scores) const {
        for (int head = 0; head < HEADS; ++head) {
            T* s = scores + head * room;
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
    }
};

// Softmax attention of the heads over the tokens of one query, keys and values the tokens themselves. Query and out are
// [N, items, D]. What is read twice is still in cache.
template <class T>
void attend(int64_t first, int64_t last, int64_t items, int64_t parts, const T* const* tokens, const int64_t* count,
            const T* query, T* out) {
    Tokens<T> of(first, parts, tokens, count);
    std::vector<T> share(HEADS * of.room);
    for (int64_t item = first; item < last; ++item, of.next()) {
        const bool more = item + 1 < last;
        of.products(query + item * CORE, items * CORE, share.data(), more);
        of.softmax(1 / std::sqrt(T(WIDTH)), share.data());
        of.mixture(share.data(), out + item * CORE, items * CORE, more);
    }
}

// --- layers of few queries --------------------------------------------------------------------------------------------

// W x + b of every item. Rows of W go by outermost: each is read once.
template <class T>
void linear(int64_t items, int64_t channels, int64_t rows, const T* x, const T* weight, const T* bias, T* out,
            int64_t out_step) {
    using W = Wide<T>;
    for (int64_t row = 0; row < rows; row += together)
        for (int64_t item = 0; item < items; ++item) {
            typename W::V sum[together] = {};
            for (int64_t c = 0; c < channels; c += W::lanes) {
                const typename W::V at = W::load(x + item * channels + c);
                for (int i = 0; i < together; ++i) sum[i] += W::load(weight + (row + i) * channels + c) * at;
            }
            T total[together];
            sums_of_four<T>(sum, total);
            for (int i = 0; i < together; ++i) out[item * out_step + row + i] = total[i] + bias[row + i];
        }
}

// Σ weight · row, all of `size` channels, added to `to`.
template <class T>
void weighted_sum(int64_t count, int64_t size, const T* weight, const T* rows, T* to) {
    using W = Wide<T>;
    int64_t c = 0;
    for (; c + W::lanes <= size; c += W::lanes) {
        typename W::V sum = W::load(to + c);
        for (int64_t i = 0; i < count; ++i) sum += weight[i] * W::load(rows + i * size + c);
        W::store(to + c, sum);
    }
    for (; c < size; ++c)
        for (int64_t i = 0; i < count; ++i) to[c] += weight[i] * rows[i * size + c];
}

// What both kinds of attention layer have before and after their attention, in the order of `layers.py`.
template <class T>
struct Layer {
    const T *query_norm_weight, *query_norm_bias, *query_weight, *query_bias, *out_weight, *out_bias, *norm_weight,
        *norm_bias, *wide_weight, *wide_bias, *narrow_weight, *narrow_bias;

    static std::vector<T> normed(int64_t items, const T* h, const T* weight, const T* bias) {
        std::vector<T> x(items * CORE);
        for (int64_t item = 0; item < items; ++item) {
            auto row = Row<T>::load(h + item * CORE);
            row.standardise();
            row.scale_and_shift(weight, bias);
            row.store(&x[item * CORE]);
        }
        return x;
    }
    // W_Q LN(h)
    std::vector<T> query(int64_t items, const T* h) const {
        const auto x = normed(items, h, query_norm_weight, query_norm_bias);
        std::vector<T> query(items * CORE);
        linear(items, CORE, CORE, x.data(), query_weight, query_bias, query.data(), CORE);
        return query;
    }
    // h + W_O read, then h + FFN(LN_ff(h))
    void finish(int64_t items, int64_t hidden, const T* h, const std::vector<T>& read, T* out) const {
        linear(items, CORE, CORE, read.data(), out_weight, out_bias, out, CORE);
        for (int64_t i = 0; i < items * CORE; ++i) out[i] += h[i];
        std::vector<T> narrow = normed(items, out, norm_weight, norm_bias), wide(items * hidden);
        linear(items, CORE, hidden, narrow.data(), wide_weight, wide_bias, wide.data(), hidden);
        gelu_in_place(0, items, hidden, wide.data());
        linear(items, hidden, CORE, wide.data(), narrow_weight, narrow_bias, narrow.data(), CORE);
        for (int64_t i = 0; i < items * CORE; ++i) out[i] += narrow[i];
    }
};

// layers.TokenAttentionLayer; key [N, E, D], value [N, E, D] and shift [N, E] are `Absorbed`.
template <class T>
void token_layer(int64_t items, int64_t parts, const T* const* tokens, const int64_t* count, int64_t hidden,
                 const Layer<T>& layer, const T* key, const T* value, const T* shift, const T* h, T* out) {
    const std::vector<T> query = layer.query(items, h);
    std::vector<T> absorbed(HEADS * items * CORE), mixed(HEADS * items * CORE), read(items * CORE);
    for (int64_t head = 0; head < HEADS; ++head)
        for (int64_t item = 0; item < items; ++item)
            weighted_sum(WIDTH, CORE, &query[item * CORE + head * WIDTH], key + head * WIDTH * CORE,
                         &absorbed[(head * items + item) * CORE]);
    attend(0, items, items, parts, tokens, count, absorbed.data(), mixed.data());
    for (int64_t head = 0; head < HEADS; ++head)
        linear(items, CORE, WIDTH, &mixed[head * items * CORE], value + head * WIDTH * CORE, shift + head * WIDTH,
               &read[head * WIDTH], CORE);
    layer.finish(items, hidden, h, read, out);
}

// layers.SiteAttentionLayer; key [B, N, E, S], value [B, N, S, E], weights [B, N, items of an image, S].
template <class T>
void site_layer(int64_t items, int64_t items_per_image, int64_t sites, int64_t hidden, const Layer<T>& layer,
                const T* added_query, const T* key, const T* value, const T* h, T* out, T* weights) {
    using W = Wide<T>;
    std::vector<T> query = layer.query(items, h), read(items * CORE), score(sites + W::lanes);
    for (int64_t i = 0; i < items * CORE; ++i) query[i] = (query[i] + (added_query ? added_query[i] : 0)) / std::sqrt(T(WIDTH));
    for (int64_t item = 0; item < items; ++item)
        for (int64_t head = 0; head < HEADS; ++head) {
            const int64_t of = item / items_per_image * HEADS + head;
            std::fill(score.begin(), score.end(), T(0));
            weighted_sum(WIDTH, sites, &query[item * CORE + head * WIDTH], key + of * WIDTH * sites, score.data());
            T most = score[0];
            for (int64_t s = 1; s < sites; ++s) most = score[s] > most ? score[s] : most;
            for (int64_t s = sites; s < sites + W::lanes; ++s) score[s] = -INFINITY;
            typename W::V sums = {};
            for (int64_t s = 0; s < sites; s += W::lanes) {
                const auto raised = exponential<T>(W::load(&score[s]) - most);
                W::store(&score[s], raised);
                sums += raised;
            }
            const T one = 1 / W::sum(sums);
            T* weight = weights + (of * items_per_image + item % items_per_image) * sites;
            for (int64_t s = 0; s < sites; ++s) weight[s] = score[s] * one;
            weighted_sum(sites, WIDTH, weight, value + of * sites * WIDTH, &read[item * CORE + head * WIDTH]);
        }
    layer.finish(items, hidden, h, read, out);
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
    void enlarged_norm_##NAME(int64_t first, int64_t last, int64_t channels, int64_t height, int64_t width,           \
                              int64_t factor, int64_t pad, const T* coarse, const T* plus, const T* weight,          \
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
    void levels_read_##NAME(int64_t first, int64_t last, int64_t samples, const T* const* rows,                       \
                            const int64_t* rows_per_map, int64_t items_per_image, const T* level,                     \
                            const int32_t* places, const int64_t* site, const T* site_xy, const T* dx, const T* dy,   \
                            int64_t item_step, int64_t step, const T* score, int64_t score_step, T* out) {            \
        levels_read(first, last, samples, rows, rows_per_map, items_per_image, level, places, site, site_xy, dx, dy,  \
                    item_step, step, score, score_step, out);                                                         \
    }                                                                                                                 \
    void token_layer_##NAME(int64_t, int64_t items, int64_t parts, const T* const* tokens, const int64_t* count,      \
                            int64_t hidden, const Layer<T>* layer, const T* key, const T* value, const T* shift,      \
                            const T* h, T* out) {                                                                     \
        token_layer(items, parts, tokens, count, hidden, *layer, key, value, shift, h, out);                          \
    }                                                                                                                 \
    void site_layer_##NAME(int64_t, int64_t items, int64_t items_per_image, int64_t sites, int64_t hidden,            \
                           const Layer<T>* layer, const T* added_query, const T* key, const T* value, const T* h,     \
                           T* out, T* weights) {                                                                      \
        site_layer(items, items_per_image, sites, hidden, *layer, added_query, key, value, h, out, weights);          \
    }                                                                                                                 \
    void attend_##NAME(int64_t first, int64_t last, int64_t items, int64_t parts, const T* const* tokens,             \
                       const int64_t* count, const T* query, T* out) {                                                \
        attend(first, last, items, parts, tokens, count, query, out);                                                 \
    }                                                                                                                 \
    }

EXPORT(float, float32)
EXPORT(double, float64)
