/* Toeplitz hash of receive-side scaling (Microsoft, "RSS Hashing Functions").
 *
 * The hash XORs the 32-bit window of the key at bit i for every input bit i that is set.  That is a
 * carry-less product: of a 32-bit word of input and the 64 key bits that begin at its position, the
 * middle 32 coefficients are the word's share.  With the key bits reversed, coefficient 31 + j of
 * the product is bit j of the hash, so the products of all words may be XORed first and put in
 * order once.  Measured against tables of 256 entries per input byte (40 KiB a key): 3.9 ns to
 * 6.6 ns for IPv4 with ports, 8.8 to 20.7 for IPv6, and 104 bytes of cache.
 *
 * A symmetric hash puts the XOR of both addresses in the place of each, and that of both ports.  A
 * product distributes over XOR: the words of the addresses are left alone and meet the XOR of the
 * two windows instead, at no cost.  The ports share a word, which is folded (`fold`).
 */
#ifndef EMUIAVF_TOEPLITZ_H
#define EMUIAVF_TOEPLITZ_H

#include "csum.h"

enum {
    TOEPLITZ_WORDS_V4 = 3, /* addresses and one word of ports */
    TOEPLITZ_WORDS = 9,    /* ... of IPv6 */
    TOEPLITZ_LOOP = 0,
    TOEPLITZ_CLMUL = 1,
};

/* Per 32-bit word of input the 64 key bits it meets; bit i of a window is the i-th of them. */
typedef struct ToeplitzKey {
    uint64_t windows[TOEPLITZ_WORDS];
    uint64_t windows_v4[TOEPLITZ_WORDS_V4];
    int fold; /* the ports are replaced by their XOR */
} ToeplitzKey;

static void toeplitz_prepare(ToeplitzKey *key, const uint8_t *bytes52)
{
    for (unsigned word = 0; word < TOEPLITZ_WORDS; word++) {
        uint64_t window = 0;
        for (unsigned bit = 0; bit < 64; bit++)
            window |= (uint64_t)(bytes52[4 * word + bit / 8] >> (7 - bit % 8) & 1) << bit;
        key->windows[word] = window;
    }
    memcpy(key->windows_v4, key->windows, sizeof key->windows_v4);
    key->fold = 0;
}

/* Makes a prepared key hash both directions of a flow alike. */
static void toeplitz_symmetric(ToeplitzKey *key)
{
    for (unsigned word = 0; word < 4; word++)
        key->windows[word] = key->windows[word + 4] ^= key->windows[word];
    key->windows_v4[0] = key->windows_v4[1] ^= key->windows_v4[0];
    key->fold = 1;
}

static inline uint32_t toeplitz_ports(const ToeplitzKey *key, const uint8_t *ports)
{
    uint32_t word = load_be32(ports);
    if (__builtin_expect(key->fold, 0))
        word ^= word << 16 | word >> 16;
    return word;
}

/* The hash of a sum of products. */
static inline uint32_t toeplitz_order(uint64_t product)
{
    uint32_t hash = __builtin_bswap32((uint32_t)(product >> 31));
    hash = (hash >> 4 & 0x0f0f0f0f) | (hash & 0x0f0f0f0f) << 4;
    hash = (hash >> 2 & 0x33333333) | (hash & 0x33333333) << 2;
    return (hash >> 1 & 0x55555555) | (hash & 0x55555555) << 1;
}

static uint32_t toeplitz_loop(const ToeplitzKey *key, const uint8_t *addresses, unsigned words,
                              const uint8_t *ports)
{
    const uint64_t *windows = words == 8 ? key->windows : key->windows_v4;
    uint64_t product = 0;
    for (unsigned at = 0; at < words + (ports != NULL); at++) {
        uint32_t word = at < words ? load_be32(addresses + 4 * at) : toeplitz_ports(key, ports);
        for (; word; word &= word - 1)
            product ^= windows[at] << __builtin_ctz(word);
    }
    return toeplitz_order(product);
}

#if defined(__x86_64__)
#define TOEPLITZ_SHARE(word, window)                    \
    _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)(word)), \
                         _mm_loadl_epi64((const __m128i *)(window)), 0)

__attribute__((target("pclmul"))) static uint32_t
toeplitz_clmul(const ToeplitzKey *key, const uint8_t *addresses, unsigned words,
               const uint8_t *ports)
{
    const uint64_t *windows = key->windows_v4;
    __m128i product;
    if (words == 8) {
        windows = key->windows;
        product = TOEPLITZ_SHARE(load_be32(addresses + 8), windows + 2);
        for (unsigned at = 3; at < 8; at++)
            product = _mm_xor_si128(
                product, TOEPLITZ_SHARE(load_be32(addresses + 4 * at), windows + at));
        if (ports)
            product = _mm_xor_si128(
                product, TOEPLITZ_SHARE(toeplitz_ports(key, ports), windows + 8));
    } else {
        product = ports ? TOEPLITZ_SHARE(toeplitz_ports(key, ports), windows + 2)
                        : _mm_setzero_si128();
    }
    product = _mm_xor_si128(product, TOEPLITZ_SHARE(load_be32(addresses), windows));
    product = _mm_xor_si128(product, TOEPLITZ_SHARE(load_be32(addresses + 4), windows + 1));
    return toeplitz_order((uint64_t)_mm_cvtsi128_si64(product));
}
#endif

/* Hash of `words` (2 for IPv4, 8 for IPv6) words of addresses, source first, and of the two ports
 * unless `ports` is NULL; all as in the packet. */
static uint32_t (*toeplitz_hash)(const ToeplitzKey *key, const uint8_t *addresses, unsigned words,
                                 const uint8_t *ports) = toeplitz_loop;

/* Uses one way in this extension; returns 0, and nothing changes, if the CPU lacks it. */
static int toeplitz_use(int kind)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (kind == TOEPLITZ_CLMUL && __builtin_cpu_supports("pclmul")) {
        toeplitz_hash = toeplitz_clmul;
        return 1;
    }
#endif
    if (kind != TOEPLITZ_LOOP)
        return 0;
    toeplitz_hash = toeplitz_loop;
    return 1;
}

__attribute__((constructor)) static void toeplitz_choose(void)
{
    toeplitz_use(TOEPLITZ_CLMUL);
}

#endif
