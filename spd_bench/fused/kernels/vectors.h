// What all kernels are made of: the compiler's own vectors, as wide as the machine's, functions of them, and rows of
// channels in registers. Letters as in fused.py.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
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

// sin x and cos x of moderate x: x less a whole number of quarter turns, and the two series there.
template <class T>
inline void sine_and_cosine(typename Wide<T>::V x, typename Wide<T>::V& sine, typename Wide<T>::V& cosine) {
    using W = Wide<T>;
    using V = typename W::V;
    using U = typename W::U;
    if constexpr (sizeof(T) == 8) {
        for (int i = 0; i < W::lanes; ++i) sine[i] = std::sin(x[i]), cosine[i] = std::cos(x[i]);
    } else {
        constexpr float whole = 1.5f * (1 << 23);  // added, it leaves the number of quarters in the lowest bits
        const V shifted = x * 0.63661977236758134f + whole, quarters = shifted - whole;
        const V r = ((x - quarters * 1.5703125f) - quarters * 4.837512969970703e-4f) - quarters * 7.549789948768648e-8f;
        const V t = r * r;
        V s = W::all(-1.9515296e-4f), c = W::all(2.4433157e-5f);
        s = r + r * t * ((s * t + 8.332161e-3f) * t - 1.6666655e-1f);
        c = 1.0f - 0.5f * t + t * t * ((c * t - 1.3887316e-3f) * t + 4.1666646e-2f);
        const U turn = (U)shifted;
        const auto odd = (turn & 1) != 0;
        sine = (V)((U)(odd ? c : s) ^ ((turn & 2) << 30));
        cosine = (V)((U)(odd ? s : c) ^ (((turn + 1) & 2) << 30));
    }
}

template <class T>
inline typename Wide<T>::V hyperbolic_tangent(typename Wide<T>::V x) {
    using W = Wide<T>;
    using V = typename W::V;
    if constexpr (sizeof(T) == 8) {
        for (int i = 0; i < W::lanes; ++i) x[i] = std::tanh(x[i]);
        return x;
    } else {
        const V away = exponential<T>(x < 0 ? x + x : -x - x), size = (1 - away) / (1 + away);
        return x < 0 ? -size : size;
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

}  // namespace
