/* Internet checksum, CRC32c and the copy of frame bytes.
 *
 * Every function is static: each extension carries its own copy, and its constructor chooses the
 * widest sum the CPU has.  Short pieces are summed inline without a call.  No function reads or
 * writes a byte outside of [src, src + len) and [dst, dst + len).
 *
 * RFC 1071: a one's complement sum may be taken in wider words and folded at the end; a piece that
 * begins at an odd offset counts with its bytes swapped.
 */
#ifndef EMUIAVF_CSUM_H
#define EMUIAVF_CSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bytes.h"
#include "cpu.h"

/* One's complement sum over pieces of any length: `odd` is the parity of the bytes so far. */
typedef struct Csum {
    uint64_t sum;
    uint32_t odd;
} Csum;

enum {
    CSUM_SHORT = 64,  /* up to here the sum is inline */
    COPY_SHORT = 128, /* up to here the copy is */
};

enum { CSUM_SCALAR = 0, CSUM_AVX2 = 1, CSUM_AVX512 = 2 };

/* ---- copy ---- */

static inline void copy_16(uint8_t *dst, const uint8_t *src)
{
    uint64_t low = load_u64(src), high = load_u64(src + 8);
    store_u64(dst, low);
    store_u64(dst + 8, high);
}

#if defined(__x86_64__)
#define COPY_16(dst, src) \
    _mm_storeu_si128((__m128i *)(dst), _mm_loadu_si128((const __m128i *)(src)))
#else
#define COPY_16(dst, src) copy_16(dst, src)
#endif

/* Two moves of half the range or more that overlap in the middle: one branch per size class. */
static inline void frame_copy(uint8_t *dst, const uint8_t *src, size_t len)
{
    if (len > COPY_SHORT) {
        memcpy(dst, src, len); /* the C library's own run-time choice */
    } else if (len >= 64) {
        COPY_16(dst, src);
        COPY_16(dst + 16, src + 16);
        COPY_16(dst + 32, src + 32);
        COPY_16(dst + 48, src + 48);
        if (len > 64) {
            dst += len;
            src += len;
            COPY_16(dst - 64, src - 64);
            COPY_16(dst - 48, src - 48);
            COPY_16(dst - 32, src - 32);
            COPY_16(dst - 16, src - 16);
        }
    } else if (len >= 32) {
        COPY_16(dst, src);
        COPY_16(dst + 16, src + 16);
        COPY_16(dst + len - 32, src + len - 32);
        COPY_16(dst + len - 16, src + len - 16);
    } else if (len >= 16) {
        COPY_16(dst, src);
        COPY_16(dst + len - 16, src + len - 16);
    } else if (len >= 8) {
        store_u64(dst, load_u64(src));
        store_u64(dst + len - 8, load_u64(src + len - 8));
    } else if (len >= 4) {
        store_u32(dst, load_u32(src));
        store_u32(dst + len - 4, load_u32(src + len - 4));
    } else if (len >= 2) {
        store_u16(dst, load_u16(src));
        store_u16(dst + len - 2, load_u16(src + len - 2));
    } else if (len == 1) {
        *dst = *src;
    }
}

/* ---- one's complement sums ----
 *
 * Sums are of 32-bit words in memory order, in 64 bits: they fold to the same 16.  `dst` NULL means
 * that nothing is copied; it is a constant wherever these are inlined.
 */

static inline uint64_t csum_plus(uint64_t sum, uint64_t part)
{
    sum += part;
    return sum + (sum < part);
}

/* 0..7 bytes, as if followed by zeros. */
static inline __attribute__((always_inline)) uint64_t csum_tail(uint8_t *dst, const uint8_t *src,
                                                                size_t len)
{
    uint64_t sum = 0;
    if (len & 4) {
        uint32_t word = load_u32(src);
        if (dst) {
            store_u32(dst, word);
            dst += 4;
        }
        sum += word;
        src += 4;
    }
    if (len & 2) {
        uint16_t word = load_u16(src);
        if (dst) {
            store_u16(dst, word);
            dst += 2;
        }
        sum += word;
        src += 2;
    }
    if (len & 1) {
        uint8_t last[2] = {*src, 0};
        if (dst)
            *dst = last[0];
        sum += load_u16(last);
    }
    return sum;
}

static inline __attribute__((always_inline)) uint64_t csum_words(uint8_t *dst, const uint8_t *src,
                                                                 size_t len)
{
    uint64_t sum = 0;
    size_t left = len;
    for (; left >= 8; left -= 8) {
        uint64_t word = load_u64(src);
        if (dst) {
            store_u64(dst, word);
            dst += 8;
        }
        sum += (uint32_t)word;
        sum += word >> 32;
        src += 8;
    }
    if (left && len >= 8) {
        /* The last eight bytes again, without those that are counted. */
        uint64_t word = load_u64(src + left - 8);
        if (dst)
            store_u64(dst + left - 8, word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        word >>= 64 - 8 * left;
#else
        word <<= 64 - 8 * left;
#endif
        sum += (uint32_t)word;
        sum += word >> 32;
    } else if (left) {
        sum += csum_tail(dst, src, left);
    }
    return sum;
}

#if defined(__SSSE3__)
/* 16 bytes and more. */
static inline uint64_t csum_sse(const uint8_t *src, size_t len)
{
    static const uint8_t slide[32] = {
        0,    1,    2,    3,    4,    5,    6,    7,    8,    9,    10,   11,   12,   13,   14,   15,
        0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
    };
    const __m128i low = _mm_set1_epi64x(0xffffffff);
    __m128i sum = _mm_setzero_si128();
    size_t left = len;
    for (; left >= 16; left -= 16, src += 16) {
        __m128i a = _mm_loadu_si128((const __m128i *)src);
        sum = _mm_add_epi64(sum, _mm_and_si128(a, low));
        sum = _mm_add_epi64(sum, _mm_srli_epi64(a, 32));
    }
    if (left) {
        /* The last 16 bytes again: those not counted yet moved to the front, zeros behind them. */
        __m128i a = _mm_loadu_si128((const __m128i *)(src + left - 16));
        a = _mm_shuffle_epi8(a, _mm_loadu_si128((const __m128i *)(slide + 16 - left)));
        sum = _mm_add_epi64(sum, _mm_and_si128(a, low));
        sum = _mm_add_epi64(sum, _mm_srli_epi64(a, 32));
    }
    sum = _mm_add_epi64(sum, _mm_unpackhi_epi64(sum, sum));
    return (uint64_t)_mm_cvtsi128_si64(sum);
}
#endif

/* Sum of a short piece, inline: for headers. */
static inline uint64_t csum_short(const uint8_t *src, size_t len)
{
#if defined(__SSSE3__)
    if (!__builtin_constant_p(len) && len >= 16)
        return csum_sse(src, len);
#endif
    return csum_words(NULL, src, len);
}

static uint64_t csum_sum_scalar(const uint8_t *src, size_t len)
{
    return csum_words(NULL, src, len);
}

static uint64_t csum_copy_scalar(uint8_t *dst, const uint8_t *src, size_t len)
{
    return csum_words(dst, src, len);
}

#if defined(__x86_64__)
TARGET_AVX2 __attribute__((always_inline))
static inline uint64_t csum_avx2(uint8_t *dst, const uint8_t *src, size_t len)
{
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    __m256i even = _mm256_setzero_si256(), odd = even, even_2 = even, odd_2 = even;
    size_t at = 0;
    for (; len - at >= 64; at += 64) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(src + at));
        __m256i b = _mm256_loadu_si256((const __m256i *)(src + at + 32));
        if (dst) {
            _mm256_storeu_si256((__m256i *)(dst + at), a);
            _mm256_storeu_si256((__m256i *)(dst + at + 32), b);
        }
        even = _mm256_add_epi64(even, _mm256_and_si256(a, low));
        odd = _mm256_add_epi64(odd, _mm256_srli_epi64(a, 32));
        even_2 = _mm256_add_epi64(even_2, _mm256_and_si256(b, low));
        odd_2 = _mm256_add_epi64(odd_2, _mm256_srli_epi64(b, 32));
    }
    __m256i four = _mm256_add_epi64(_mm256_add_epi64(even, odd), _mm256_add_epi64(even_2, odd_2));
    __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    uint64_t sum = (uint64_t)_mm_cvtsi128_si64(two) + (uint64_t)_mm_extract_epi64(two, 1);
    return csum_plus(sum, csum_words(dst ? dst + at : NULL, src + at, len - at));
}

TARGET_AVX2 static uint64_t csum_sum_avx2(const uint8_t *src, size_t len)
{
    return csum_avx2(NULL, src, len);
}

TARGET_AVX2 static uint64_t csum_copy_avx2(uint8_t *dst, const uint8_t *src, size_t len)
{
    return csum_avx2(dst, src, len);
}

TARGET_AVX512 __attribute__((always_inline))
static inline uint64_t csum_avx512(uint8_t *dst, const uint8_t *src, size_t len)
{
    const __m512i low = _mm512_set1_epi64(0xffffffff);
    __m512i even = _mm512_setzero_si512(), odd = even, even_2 = even, odd_2 = even;
    size_t at = 0;
    for (; len - at >= 128; at += 128) {
        __m512i a = _mm512_loadu_si512(src + at);
        __m512i b = _mm512_loadu_si512(src + at + 64);
        if (dst) {
            _mm512_storeu_si512(dst + at, a);
            _mm512_storeu_si512(dst + at + 64, b);
        }
        even = _mm512_add_epi64(even, _mm512_and_si512(a, low));
        odd = _mm512_add_epi64(odd, _mm512_srli_epi64(a, 32));
        even_2 = _mm512_add_epi64(even_2, _mm512_and_si512(b, low));
        odd_2 = _mm512_add_epi64(odd_2, _mm512_srli_epi64(b, 32));
    }
    /* At most two more, the last one masked: masked-off bytes are neither read nor written. */
    while (at < len) {
        size_t left = len - at;
        __mmask64 mask = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        __m512i a = _mm512_maskz_loadu_epi8(mask, src + at);
        if (dst)
            _mm512_mask_storeu_epi8(dst + at, mask, a);
        even = _mm512_add_epi64(even, _mm512_and_si512(a, low));
        odd = _mm512_add_epi64(odd, _mm512_srli_epi64(a, 32));
        at += left >= 64 ? 64 : left;
    }
    even = _mm512_add_epi64(_mm512_add_epi64(even, odd), _mm512_add_epi64(even_2, odd_2));
    return (uint64_t)_mm512_reduce_add_epi64(even);
}

TARGET_AVX512 static uint64_t csum_sum_avx512(const uint8_t *src, size_t len)
{
    return csum_avx512(NULL, src, len);
}

TARGET_AVX512 static uint64_t csum_copy_avx512(uint8_t *dst, const uint8_t *src, size_t len)
{
    return csum_avx512(dst, src, len);
}
#endif

static uint64_t (*csum_sum_wide)(const uint8_t *src, size_t len) = csum_sum_scalar;
static uint64_t (*csum_copy_wide)(uint8_t *dst, const uint8_t *src, size_t len) = csum_copy_scalar;

/* Uses one kind of wide sum in this extension; returns 0, and nothing changes, if the CPU lacks it. */
static int csum_use(int kind)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (kind == CSUM_AVX512 && __builtin_cpu_supports("avx512bw")) {
        csum_sum_wide = csum_sum_avx512;
        csum_copy_wide = csum_copy_avx512;
        return 1;
    }
    if (kind == CSUM_AVX2 && cpu_has_avx2()) {
        csum_sum_wide = csum_sum_avx2;
        csum_copy_wide = csum_copy_avx2;
        return 1;
    }
#endif
    if (kind != CSUM_SCALAR)
        return 0;
    csum_sum_wide = csum_sum_scalar;
    csum_copy_wide = csum_copy_scalar;
    return 1;
}

__attribute__((constructor)) static void csum_choose(void)
{
#if defined(__x86_64__)
    if (!(cpu_likes_avx512() && csum_use(CSUM_AVX512)))
        csum_use(CSUM_AVX2);
#endif
}

static inline void csum_init(Csum *csum)
{
    csum->sum = 0;
    csum->odd = 0;
}

/* Adds the sum of `len` bytes.  Rotating 64 bits by 8 swaps the bytes of the folded sum: it
 * multiplies by 256 modulo 2^64 - 1, and 2^16 - 1 divides that. */
static inline void csum_join(Csum *csum, uint64_t part, size_t len)
{
    if (csum->odd)
        part = part << 8 | part >> 56;
    csum->sum = csum_plus(csum->sum, part);
    csum->odd ^= len & 1;
}

static inline void csum_add(Csum *csum, const uint8_t *src, size_t len)
{
    csum_join(csum, len <= CSUM_SHORT ? csum_short(src, len) : csum_sum_wide(src, len), len);
}

static inline void csum_add_copy(Csum *csum, uint8_t *dst, const uint8_t *src, size_t len)
{
    csum_join(csum, len <= CSUM_SHORT ? csum_words(dst, src, len) : csum_copy_wide(dst, src, len),
              len);
}

/* A number plus itself with the halves swapped has in its upper half their sum, carry included. */
static inline uint16_t csum_fold_u64(uint64_t sum)
{
    sum += sum << 32 | sum >> 32;
    uint32_t half = (uint32_t)(sum >> 32);
    half += half << 16 | half >> 16;
    return (uint16_t)(half >> 16);
}

static inline uint16_t csum_fold(const Csum *csum) { return csum_fold_u64(csum->sum); }

/* ---- CRC32c (Castagnoli, reflected): RFC 9260 appendix A ---- */

static uint32_t crc32c_add_table(uint32_t crc, const uint8_t *src, size_t len)
{
    static const uint32_t nibbles[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    for (; len; len--) {
        crc ^= *src++;
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return crc;
}

#if defined(__SSE4_2__)
static inline uint32_t crc32c_add(uint32_t crc, const uint8_t *src, size_t len)
{
    uint64_t wide = crc;
    for (; len >= 8; len -= 8, src += 8)
        wide = _mm_crc32_u64(wide, load_u64(src));
    crc = (uint32_t)wide;
    for (; len; len--)
        crc = _mm_crc32_u8(crc, *src++);
    return crc;
}
#else
static inline uint32_t crc32c_add(uint32_t crc, const uint8_t *src, size_t len)
{
    return crc32c_add_table(crc, src, len);
}
#endif

/* The value as the packet carries it: store it with a little-endian 32-bit store. */
static inline uint32_t crc32c_final(uint32_t crc) { return ~crc; }

#endif
