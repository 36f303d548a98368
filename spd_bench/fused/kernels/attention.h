// B2 and B5: the heads' attention over the tokens of one query (§6.2, §6.5).

#pragma once

#include "vectors.h"

namespace {

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
// to[n][i] = the sum of of[n][i], heads `step` apart.
template <class T>
inline void sums_of_heads(const typename Wide<T>::V (*of)[together], T* to, int64_t step) {
    for (int n = 0; n < heads_at_once; ++n) sums_of_four<T>(of[n], to + n * step);
}
#ifdef HAS_SHUFFLES
// Within each 128 bits the four are transposed as they are added up, in 6 shuffles instead of 16.
template <size_t... lane>
inline Wide<float>::V sums_within(const Wide<float>::V* of, std::index_sequence<lane...>) {
    using V = Wide<float>::V;
    constexpr int lanes = Wide<float>::lanes;
#define LOW_PAIRS(a, b) __builtin_shufflevector(a, b, (int((lane & ~3) + (lane & 3) / 2 + (lane & 1) * lanes))...)
#define HIGH_PAIRS(a, b) __builtin_shufflevector(a, b, (int((lane & ~3) + 2 + (lane & 3) / 2 + (lane & 1) * lanes))...)
#define LOW_HALVES(a, b) __builtin_shufflevector(a, b, (int((lane & ~3) + (lane & 1) + (lane & 2) / 2 * lanes))...)
#define HIGH_HALVES(a, b) __builtin_shufflevector(a, b, (int((lane & ~3) + 2 + (lane & 1) + (lane & 2) / 2 * lanes))...)
    const V first = LOW_PAIRS(of[0], of[1]) + HIGH_PAIRS(of[0], of[1]);
    const V second = LOW_PAIRS(of[2], of[3]) + HIGH_PAIRS(of[2], of[3]);
    return LOW_HALVES(first, second) + HIGH_HALVES(first, second);
}
inline Wide<float>::V sums_within(const Wide<float>::V* of) {
    return sums_within(of, std::make_index_sequence<Wide<float>::lanes>());
}
template <>
inline void sums_of_four<float>(const Wide<float>::V* of, float* to) {
    constexpr int lanes = Wide<float>::lanes;
    float part[lanes];
    Wide<float>::store(part, sums_within(of));
    for (int i = 0; i < together; ++i) {
        float sum = part[i];
        for (int j = together; j < lanes; j += together) sum += part[i + j];
        to[i] = sum;
    }
}
#ifdef __AVX512F__
// Vectors of four parts, the sums of each head's in a part of one vector.
template <>
inline void sums_of_heads<float>(const Wide<float>::V (*of)[together], float* to, int64_t step) {
    using V = Wide<float>::V;
    const auto halves = [](V a, V b) {
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    };
    const auto parts = [](V a, V b) {
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    };
    const V last = halves(sums_within(of[4]), sums_within(of[5]));
    const V first = halves(sums_within(of[0]), sums_within(of[1])), second = halves(sums_within(of[2]), sums_within(of[3]));
    float sum[2 * Wide<float>::lanes];
    Wide<float>::store(sum, parts(first, second));
    Wide<float>::store(sum + Wide<float>::lanes, parts(last, last));
    for (int n = 0; n < heads_at_once; ++n) std::copy_n(sum + n * together, together, to + n * step);
}
#endif
#endif

// The softmax of `count` scores that are multiplied by `scale` first, 0 beyond them up to `room`, whole vectors.
template <class T>
void softmax_in_place(int64_t count, int64_t room, T scale, T* score) {
    using W = Wide<T>;
    using V = typename W::V;
    std::fill(score + count, score + room, T(-INFINITY));
    V most = W::load(score), sums = {};
    for (int64_t s = W::lanes; s < room; s += W::lanes) {
        const V here = W::load(score + s);
        most = here > most || here != here ? here : most;
    }
    T part[W::lanes];
    W::store(part, most);
    for (int width = W::lanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) part[i] = part[i + width] > part[i] || part[i + width] != part[i + width] ? part[i + width] : part[i];
    const T peak = part[0];
    for (int64_t s = 0; s < room; s += W::lanes) {
        const V raised = exponential<T>((W::load(score + s) - peak) * scale);
        W::store(score + s, raised);
        sums += raised;
    }
    const T one = 1 / W::sum(sums);
    for (int64_t s = 0; s < room; s += W::lanes) W::store(score + s, W::load(score + s) * one);
}

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
                sums_of_heads<T>(sum, to + head * room + j, room);
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
        for (int head = 0; head < HEADS; ++head) softmax_in_place(all, room, scale, scores + head * room);
    }
    // Softmax attention of the heads over the tokens of the next items, keys and values the tokens themselves: query and out
    // are [items, N, D]. more: whether other items come after these. What is read twice is still in cache.
    void attend(int64_t items, const T* query, T* out, bool more) {
        std::vector<T> share(HEADS * room);
        for (int64_t item = 0; item < items; ++item, next()) {
            const bool fetch = more || item + 1 < items;
            products(query + item * HEADS * CORE, CORE, share.data(), fetch);
            softmax(1 / std::sqrt(T(WIDTH)), share.data());
            mixture(share.data(), out + item * HEADS * CORE, CORE, fetch);
        }
    }
};

}  // namespace
