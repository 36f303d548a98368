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

}  // namespace
