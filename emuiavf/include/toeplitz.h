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
    TOEPLITZ_WINDOWS = 12, /* input words that a key has bits for */
    TOEPLITZ_LOOP = 0,
    TOEPLITZ_CLMUL = 1,
};

/* Per 32-bit word of input the 64 key bits it meets; bit i of a window is the i-th of them. */
typedef struct ToeplitzKey {
    uint64_t windows[TOEPLITZ_WORDS];
    uint64_t windows_v4[TOEPLITZ_WORDS_V4];
    uint64_t serial; /* no two keys of this extension have the same, not even at the same address */
    int fold;        /* the ports are replaced by their XOR */
} ToeplitzKey;

/* The key bits that input word number `word` meets; a key of 52 bytes has TOEPLITZ_WINDOWS. */
static uint64_t toeplitz_window(const uint8_t *bytes52, unsigned word)
{
    uint64_t window = 0;
    for (unsigned bit = 0; bit < 64; bit++)
        window |= (uint64_t)(bytes52[4 * word + bit / 8] >> (7 - bit % 8) & 1) << bit;
    return window;
}

static void toeplitz_prepare(ToeplitzKey *key, const uint8_t *bytes52)
{
    static uint64_t serials;
    key->serial = __atomic_add_fetch(&serials, 1, __ATOMIC_RELAXED);
    for (unsigned word = 0; word < TOEPLITZ_WORDS; word++)
        key->windows[word] = toeplitz_window(bytes52, word);
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

static uint32_t toeplitz_words_loop(const uint32_t *words, const uint64_t *windows, unsigned count)
{
    uint64_t product = 0;
    for (unsigned at = 0; at < count; at++)
        for (uint32_t word = words[at]; word; word &= word - 1)
            product ^= windows[at] << __builtin_ctz(word);
    return toeplitz_order(product);
}

#if defined(__x86_64__)
__attribute__((target("pclmul"))) static uint32_t
toeplitz_words_clmul(const uint32_t *words, const uint64_t *windows, unsigned count)
{
    __m128i product = _mm_setzero_si128();
    for (unsigned at = 0; at < count; at++)
        product = _mm_xor_si128(product, TOEPLITZ_SHARE(words[at], windows + at));
    return toeplitz_order((uint64_t)_mm_cvtsi128_si64(product));
}
#endif

/* Hash of any words, each a number and not bytes, with the windows that they meet. */
static uint32_t (*toeplitz_words)(const uint32_t *words, const uint64_t *windows,
                                  unsigned count) = toeplitz_words_loop;

/* Hash of `words` (2 for IPv4, 8 for IPv6) words of addresses, source first, and of the two ports
 * unless `ports` is NULL; all as in the packet. */
static uint32_t (*toeplitz_hash)(const ToeplitzKey *key, const uint8_t *addresses, unsigned words,
                                 const uint8_t *ports) = toeplitz_loop;

/* ---- bursts of IPv4 flows without IP options: addresses and ports are 12 bytes in a row ---- */

static void toeplitz_flows_loop(const ToeplitzKey *key, const uint8_t *const *flows, unsigned count,
                                uint32_t *hashes)
{
    for (unsigned i = 0; i < count; i++)
        hashes[i] = toeplitz_loop(key, flows[i], 2, flows[i] + 8);
}

#if defined(__x86_64__)
/* The bits of four words in reverse order: bytes by one shuffle, their halves by two tables. */
__attribute__((target("ssse3"))) static inline __m128i toeplitz_order_4(__m128i words)
{
    const __m128i bytes = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    const __m128i low = _mm_set_epi8(15, 7, 11, 3, 13, 5, 9, 1, 14, 6, 10, 2, 12, 4, 8, 0);
    const __m128i half = _mm_set1_epi8(15);
    __m128i upper = _mm_and_si128(_mm_srli_epi16(words, 4), half);
    __m128i lower = _mm_slli_epi16(_mm_shuffle_epi8(low, _mm_and_si128(words, half)), 4);
    return _mm_shuffle_epi8(_mm_or_si128(lower, _mm_shuffle_epi8(low, upper)), bytes);
}

__attribute__((target("ssse3,pclmul"))) static void
toeplitz_flows_clmul(const ToeplitzKey *key, const uint8_t *const *flows, unsigned count,
                     uint32_t *hashes)
{
    /* Each 32-bit word from network order into a half of its own. */
    const __m128i spread = _mm_set_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 0, 1, 2, 3);
    const __m128i addresses = _mm_loadu_si128((const __m128i *)key->windows_v4);
    const __m128i ports = _mm_loadl_epi64((const __m128i *)(key->windows_v4 + 2));
    for (unsigned i = 0; i < count; i++) {
        __m128i pair = _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i *)flows[i]), spread);
        __m128i last = _mm_cvtsi32_si128((int)toeplitz_ports(key, flows[i] + 8));
        __m128i product = _mm_xor_si128(_mm_clmulepi64_si128(pair, addresses, 0x00),
                                        _mm_clmulepi64_si128(pair, addresses, 0x11));
        product = _mm_xor_si128(product, _mm_clmulepi64_si128(last, ports, 0x00));
        hashes[i] = (uint32_t)((uint64_t)_mm_cvtsi128_si64(product) >> 31);
    }
    for (unsigned i = 0; i < count; i += 4)
        _mm_storeu_si128((__m128i *)(hashes + i),
                         toeplitz_order_4(_mm_loadu_si128((const __m128i *)(hashes + i))));
}
#endif

/* Hashes of `count` flows; `hashes` has room for a multiple of four. */
static void (*toeplitz_flows)(const ToeplitzKey *key, const uint8_t *const *flows, unsigned count,
                              uint32_t *hashes) = toeplitz_flows_loop;

/* Uses one way in this extension; returns 0, and nothing changes, if the CPU lacks it. */
static int toeplitz_use(int kind)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (kind == TOEPLITZ_CLMUL && __builtin_cpu_supports("pclmul") &&
        __builtin_cpu_supports("ssse3")) {
        toeplitz_hash = toeplitz_clmul;
        toeplitz_words = toeplitz_words_clmul;
        toeplitz_flows = toeplitz_flows_clmul;
        return 1;
    }
#endif
    if (kind != TOEPLITZ_LOOP)
        return 0;
    toeplitz_hash = toeplitz_loop;
    toeplitz_words = toeplitz_words_loop;
    toeplitz_flows = toeplitz_flows_loop;
    return 1;
}

__attribute__((constructor)) static void toeplitz_choose(void)
{
    toeplitz_use(TOEPLITZ_CLMUL);
}

#endif
