// Kernels that several blocks share: GELU, LayerNorm without its affine part, the largest of many.

#pragma once

#include "vectors.h"

namespace {

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
void standardise(int64_t first, int64_t last, const T* rows, T* out) {
    for (int64_t item = first; item < last; ++item) {
        Row<T> row = Row<T>::load(rows + item * CORE);
        row.standardise();
        row.store(out + item * CORE);
    }
}

// The R largest of each item's S weights, largest first, of equal ones the first; NaN counts as the largest.
template <class T>
void largest(int64_t first, int64_t last, int64_t sites, int64_t wanted, const T* weight, int64_t* out) {
    using Bits = typename Of<T>::Bits;
    // a weight's bits, as whole numbers in the order of the weights, before those of the site, the first the largest
    using Rank = std::conditional_t<sizeof(T) == 4, uint64_t, unsigned __int128>;
    constexpr int bits_of = 8 * sizeof(T);
    constexpr Bits sign = Bits(1) << (bits_of - 1);
    std::vector<Rank> ranked(sites);
    for (int64_t item = first; item < last; ++item) {
        for (int64_t s = 0; s < sites; ++s) {
            const T value = weight[item * sites + s] + T(0);  // makes -0 the same as 0
            Bits bits;
            std::memcpy(&bits, &value, sizeof bits);
            ranked[s] = Rank(value != value ? ~Bits(0) : bits & sign ? ~bits : bits | sign) << bits_of | Bits(~Bits(s));
        }
        std::nth_element(ranked.begin(), ranked.begin() + (wanted - 1), ranked.end(), std::greater<Rank>());
        std::sort(ranked.begin(), ranked.begin() + wanted, std::greater<Rank>());
        for (int64_t r = 0; r < wanted; ++r) out[item * wanted + r] = int64_t(Bits(~Bits(ranked[r])));
    }
}

}  // namespace
