// Single instructions that C has no word for: bits of a mask, hints to the cache.
#ifndef EMUIAVF_BITS_H
#define EMUIAVF_BITS_H

#include <stdint.h>

// The number of the lowest set bit; the word must not be 0.
static inline int lowest_bit(uint32_t word) { return __builtin_ctz(word); }
static inline int lowest_bit64(uint64_t word) { return __builtin_ctzll(word); }
// A word with so many of its lowest bits set, 0 to 32.
static inline uint32_t low_bits(uint32_t count) { return (uint32_t)((1ull << count) - 1); }
// The lowest `count` of the set bits, of at least as many.
static inline uint32_t first_bits(uint32_t word, uint32_t count)
{
    uint32_t rest = word;
    if (count == (uint32_t)__builtin_popcount(word))
        return word;
    while (count--)
        rest &= rest - 1;
    return word & ~rest;
}
// Whether the set bits, at least one, stand side by side.
static inline int in_a_row(uint32_t word)
{
    uint32_t row = word >> lowest_bit(word);
    return (row & (row + 1)) == 0;
}
static inline int count_bits(uint32_t word) { return __builtin_popcount(word); }

static inline void prefetch_read(const void *p) { __builtin_prefetch(p, 0); }

// To be written by this core: without PREFETCHW (-mprfchw) the compiler would only ask for a
// shared copy, and the store would have to cross the cores a second time.
static inline void prefetch_write(const void *p) { __builtin_prefetch(p, 1); }

#endif
