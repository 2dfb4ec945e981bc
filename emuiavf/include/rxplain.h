/* Plain frames into a Rx ring, many at a time: each wholly in its head, one buffer each, and buffers
 * within reach (mem.h).
 *
 * Three steps, so that the misses of one frame overlap those of the next: buffers are found, heads
 * copied, descriptors handed over.  Each step is one body, built for the CPU that everybody has and
 * for AVX2.
 */
#ifndef EMUIAVF_RXPLAIN_H
#define EMUIAVF_RXPLAIN_H

#include "bits.h"
#include "cpu.h"
#include "csum.h"
#include "mem.h"
#include "writeback.h"

/* Buffers of the descriptors at `desc`, asked for to be written; returns how many of `count` are
 * within reach before the first that is not. */
BODY unsigned plain_buffers_scalar(const uint8_t *desc, unsigned at, unsigned count,
                                   const MemReach *reach, uint8_t **buffers)
{
    for (; at < count; at++) {
        const uint64_t *address = (const uint64_t *)(desc + (size_t)at * RX_DESC_SIZE);
        uint8_t *host = mem_reached(reach, load_relaxed_u64(address));
        if (host == NULL)
            break;
        prefetch_write(host);
        buffers[at] = host;
    }
    return at;
}

static unsigned plain_buffers_base(const uint8_t *desc, unsigned count, const MemReach *reach,
                                   uint8_t **buffers)
{
    return plain_buffers_scalar(desc, 0, count, reach, buffers);
}

#if defined(__x86_64__)
TARGET_AVX2 static unsigned plain_buffers_avx2(const uint8_t *desc, unsigned count,
                                               const MemReach *reach, uint8_t **buffers)
{
    const __m256i iova = _mm256_set1_epi64x((int64_t)reach->iova);
    const __m256i size = _mm256_set1_epi64x((int64_t)reach->size);
    const __m256i base = _mm256_set1_epi64x((int64_t)(uintptr_t)reach->host);
    unsigned at = 0;
    for (; at + 4 <= count; at += 4) {
        const __m128i *four = (const __m128i *)(desc + (size_t)at * RX_DESC_SIZE);
        __m128i ab = _mm_unpacklo_epi64(_mm_loadu_si128(four), _mm_loadu_si128(four + 2));
        __m128i cd = _mm_unpacklo_epi64(_mm_loadu_si128(four + 4), _mm_loadu_si128(four + 6));
        __m256i offset = _mm256_sub_epi64(_mm256_set_m128i(cd, ab), iova);
        __asm__("" : "+x"(offset)); /* what is judged is what is used */
        /* Unsigned: sizes are below 2^63, an offset above that is not one. */
        __m256i good = _mm256_andnot_si256(offset, _mm256_cmpgt_epi64(size, offset));
        if (_mm256_movemask_pd(_mm256_castsi256_pd(good)) != 15)
            break;
        _mm256_storeu_si256((__m256i *)(buffers + at), _mm256_add_epi64(offset, base));
        for (unsigned i = at; i < at + 4; i++)
            prefetch_write(buffers[i]);
    }
    return plain_buffers_scalar(desc, at, count, reach, buffers);
}
#endif

/* Frames are private up to the end of their heads, buffers are not: nothing is written behind a
 * frame.  Two moves that overlap. */
BODY void plain_copy_one(uint8_t *dst, const uint8_t *src, uint32_t len)
{
    if (__builtin_expect(len - 32 <= 32, 1)) {
        move_32(dst, src);
        move_32(dst + len - 32, src + len - 32);
    } else if (len - 64 <= 64) {
        move_64(dst, src);
        move_64(dst + len - 64, src + len - 64);
    } else {
        frame_copy(dst, src, len);
    }
}

/* The first `count` frames of `mask`, each wholly in its head, into their buffers.  Lists them with
 * their flags; returns the flags that any of them has, and adds to *bytes. */
BODY uint32_t plain_copy_body(Burst *burst, uint32_t mask, unsigned count, uint8_t *const *buffers,
                              Frame **frames, uint32_t *flags, uint64_t *bytes)
{
    uint32_t seen = 0;
    uint64_t total = 0;
    for (unsigned i = 0; i < count; i++) {
        Frame *frame = &burst->frames[lowest_bit(mask)];
        mask &= mask - 1;
        plain_copy_one(buffers[i], frame->head, frame->len);
        frames[i] = frame;
        flags[i] = frame->flags;
        seen |= frame->flags;
        total += frame->len;
    }
    *bytes += total;
    return seen;
}

static uint32_t plain_copy_base(Burst *burst, uint32_t mask, unsigned count, uint8_t *const *buffers,
                                Frame **frames, uint32_t *flags, uint64_t *bytes)
{
    return plain_copy_body(burst, mask, count, buffers, frames, flags, bytes);
}

static unsigned (*plain_buffers)(const uint8_t *desc, unsigned count, const MemReach *reach,
                                 uint8_t **buffers) = plain_buffers_base;
static uint32_t (*plain_copy)(Burst *burst, uint32_t mask, unsigned count, uint8_t *const *buffers,
                              Frame **frames, uint32_t *flags, uint64_t *bytes) = plain_copy_base;

#if defined(__x86_64__)
TARGET_AVX2 static uint32_t plain_copy_avx2(Burst *burst, uint32_t mask, unsigned count,
                                            uint8_t *const *buffers, Frame **frames,
                                            uint32_t *flags, uint64_t *bytes)
{
    return plain_copy_body(burst, mask, count, buffers, frames, flags, bytes);
}
#endif

/* Uses one kind in this extension: the best one from the start, others in tests. */
static int rx_plain_use(int kind)
{
#if defined(__x86_64__)
    if (kind == CPU_AVX2) {
        if (!cpu_has_avx2())
            return 0;
        plain_buffers = plain_buffers_avx2;
        plain_copy = plain_copy_avx2;
        return 1;
    }
#endif
    if (kind != CPU_BASE)
        return 0;
    plain_buffers = plain_buffers_base;
    plain_copy = plain_copy_base;
    return 1;
}

__attribute__((constructor)) static void rx_plain_use_best(void) { rx_plain_use(CPU_AVX2); }

#endif
