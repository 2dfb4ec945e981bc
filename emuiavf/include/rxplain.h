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

/* Asks for the `count` descriptors at `desc`, which the driver has written, most likely on another
 * core.  To be written: else each line would have to come from there a second time. */
static inline void plain_expect(const uint8_t *desc, unsigned count)
{
#pragma GCC unroll 8
    for (unsigned i = 0; i < count; i += 64 / RX_DESC_SIZE)
        prefetch_write(desc + (size_t)i * RX_DESC_SIZE);
}

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

/* Frames with a buffer each. */
typedef struct PlainFrames {
    Frame *frames[BURST_FRAMES];
    uint64_t kinds[BURST_FRAMES]; /* len, and above it the flags with the verdicts found while copying */
    uint64_t seen;                /* kinds, all of them together */
    uint64_t bytes;
} PlainFrames;

/* The first `count` frames of `mask` into their buffers.  `row`: they are the first of the burst. */
BODY void plain_copy_each(Burst *burst, uint32_t mask, int row, unsigned count,
                          uint8_t *const *buffers, PlainFrames *plain)
{
    uint64_t seen = 0, bytes = 0;
    for (unsigned i = 0; i < count; i++, mask &= mask - 1) {
        Frame *frame = &burst->frames[row ? (int)i : lowest_bit(mask)];
        uint64_t kind = frame_kind(frame);
        plain_copy_one(buffers[i], frame->head, (uint32_t)kind);
        plain->frames[i] = frame;
        plain->kinds[i] = kind;
        seen |= kind;
        bytes += (uint32_t)kind;
    }
    plain->seen = seen;
    plain->bytes = bytes;
}

BODY void plain_copy_body(Burst *burst, uint32_t mask, unsigned count, uint8_t *const *buffers,
                          PlainFrames *plain)
{
    if (__builtin_expect((mask & (mask + 1)) == 0, 1))
        plain_copy_each(burst, mask, 1, count, buffers, plain);
    else
        plain_copy_each(burst, mask, 0, count, buffers, plain);
}
static void plain_copy_base(Burst *burst, uint32_t mask, unsigned count, uint8_t *const *buffers,
                            PlainFrames *plain)
{
    plain_copy_body(burst, mask, count, buffers, plain);
}

/* The same for frames of one length in a row. */
BODY void plain_copy_row(const Frame *frames, unsigned count, uint32_t len, uint8_t *const *buffers)
{
    if (__builtin_expect(len - 32 <= 32, 1)) {
        for (unsigned i = 0; i < count; i++) {
            uint8_t *dst = buffers[i];
            const uint8_t *src = frames[i].head;
            move_32(dst, src);
            move_32(dst + len - 32, src + len - 32);
        }
        return;
    }
    for (unsigned i = 0; i < count; i++)
        plain_copy_one(buffers[i], frames[i].head, len);
}

static void plain_copy_alike_base(const Frame *frames, unsigned count, uint32_t len,
                                  uint8_t *const *buffers)
{
    plain_copy_row(frames, count, len, buffers);
}

/* What the descriptor of a frame says, complete. */
WRITEBACK_INLINE Writeback plain_writeback(uint32_t rxdid, const Frame *frame, uint64_t kind)
{
    uint32_t flags = (uint32_t)(kind >> 32);
    Writeback base = writeback_base(rxdid, flags, flags, 0, 0);
    Writeback made = writeback_of(rxdid, &base, frame, 0, 0);
    writeback_end(rxdid, &made, (uint32_t)kind, 1);
    return made;
}

WRITEBACK_INLINE void plain_back_scalar(uint32_t rxdid, uint64_t *desc, const PlainFrames *plain,
                                        unsigned count)
{
    uint32_t last = (uint32_t)(plain->kinds[0] >> 32);
    Writeback base = writeback_base(rxdid, last, last, 0, 0), made;
    for (unsigned i = 0; i < count; i++, desc += RX_DESC_SIZE / 8) {
        if (__builtin_expect(plain->kinds[i] >> 32 != last, 0)) {
            last = (uint32_t)(plain->kinds[i] >> 32);
            base = writeback_base(rxdid, last, last, 0, 0);
        }
        made = writeback_of(rxdid, &base, plain->frames[i], 0, 0);
        writeback_store(rxdid, desc, &made, (uint32_t)plain->kinds[i], 1);
    }
}

static void plain_back_base(uint32_t rxdid, uint8_t *desc, const PlainFrames *plain, unsigned count)
{
    if (rxdid == RXDID_LEGACY)
        plain_back_scalar(RXDID_LEGACY, (uint64_t *)desc, plain, count);
    else if (rxdid == RXDID_FLEX_OVS)
        plain_back_scalar(RXDID_FLEX_OVS, (uint64_t *)desc, plain, count);
    else
        plain_back_scalar(RXDID_FLEX_NIC, (uint64_t *)desc, plain, count);
}

WRITEBACK_INLINE void plain_back_row(uint32_t rxdid, uint64_t *desc, const Frame *frames,
                                     unsigned count, uint64_t kind)
{
    for (unsigned i = 0; i < count; i++, desc += RX_DESC_SIZE / 8) {
        Writeback made = plain_writeback(rxdid, &frames[i], kind);
        writeback_put(desc, &made);
    }
}

static void plain_back_alike_base(uint32_t rxdid, uint8_t *desc, const Frame *frames,
                                  unsigned count, uint64_t kind)
{
    if (rxdid == RXDID_LEGACY)
        plain_back_row(RXDID_LEGACY, (uint64_t *)desc, frames, count, kind);
    else if (rxdid == RXDID_FLEX_OVS)
        plain_back_row(RXDID_FLEX_OVS, (uint64_t *)desc, frames, count, kind);
    else
        plain_back_row(RXDID_FLEX_NIC, (uint64_t *)desc, frames, count, kind);
}

/* Buffers of the `count` descriptors at `desc`, asked for to be written; returns how many are within
 * reach before the first that is not. */
static unsigned (*plain_buffers)(const uint8_t *desc, unsigned count, const MemReach *reach,
                                 uint8_t **buffers) = plain_buffers_base;
/* The first `count` frames of `mask`, each wholly in its head, into their buffers. */
static void (*plain_copy)(Burst *burst, uint32_t mask, unsigned count, uint8_t *const *buffers,
                          PlainFrames *plain) = plain_copy_base;
/* Hands over the descriptors from `desc` on, of the formats LEGACY, FLEX_NIC and FLEX_OVS. */
static void (*plain_back)(uint32_t rxdid, uint8_t *desc, const PlainFrames *plain,
                          unsigned count) = plain_back_base;
/* Both for frames in a row that have one length, or one kind (frame_kind) and type. */
static void (*plain_copy_alike)(const Frame *frames, unsigned count, uint32_t len,
                                uint8_t *const *buffers) = plain_copy_alike_base;
static void (*plain_back_alike)(uint32_t rxdid, uint8_t *desc, const Frame *frames, unsigned count,
                                uint64_t kind) = plain_back_alike_base;

#if defined(__x86_64__)
TARGET_AVX2 static void plain_copy_avx2(Burst *burst, uint32_t mask, unsigned count,
                                        uint8_t *const *buffers, PlainFrames *plain)
{
    plain_copy_body(burst, mask, count, buffers, plain);
}

TARGET_AVX2 static void plain_copy_alike_avx2(const Frame *frames, unsigned count, uint32_t len,
                                              uint8_t *const *buffers)
{
    plain_copy_row(frames, count, len, buffers);
}

/* Descriptors of frames of one kind and type, which differ in their hash only: one of the lanes. */
typedef struct PlainLanes {
    __m128i low, high;
} PlainLanes;

WRITEBACK_INLINE PlainLanes plain_lanes(uint32_t rxdid, const Frame *frame, uint64_t kind)
{
    Writeback made = plain_writeback(rxdid, frame, kind);
    return (PlainLanes){_mm_loadu_si128((const __m128i *)made.qword),
                        _mm_loadu_si128((const __m128i *)made.qword + 1)};
}

/* Two stores of 16 bytes, the one with DD last.  A CPU with AVX makes each of them at once where it
 * is aligned (Intel SDM, volume 3, "Guaranteed Atomic Operations"; AMD alike), as every driver's ring
 * is. */
BODY __attribute__((target("avx2"))) void plain_lanes_store(uint32_t rxdid, uint8_t *desc,
                                                            PlainLanes lanes, uint32_t hash)
{
    if (rxdid == RXDID_LEGACY)
        lanes.low = _mm_insert_epi32(lanes.low, (int)hash, 1);
    else if (rxdid == RXDID_FLEX_OVS)
        lanes.high = _mm_insert_epi32(lanes.high, (int)hash, 2);
    else
        lanes.low = _mm_insert_epi32(lanes.low, (int)hash, 3);
    _mm_storeu_si128((__m128i *)desc + 1, lanes.high);
    __asm__("" ::: "memory"); /* in this order */
    _mm_storeu_si128((__m128i *)desc, lanes.low);
    __asm__("" ::: "memory");
}

BODY __attribute__((target("avx2"))) void plain_back_lanes(uint32_t rxdid, uint8_t *desc,
                                                           const PlainFrames *plain, unsigned count)
{
    uint64_t kind = 0;
    uint32_t ptype = 0;
    PlainLanes lanes = {_mm_setzero_si128(), _mm_setzero_si128()};
    for (unsigned i = 0; i < count; i++, desc += RX_DESC_SIZE) {
        const Frame *frame = plain->frames[i];
        if (__builtin_expect(plain->kinds[i] != kind || frame->ptype != ptype, 0)) {
            kind = plain->kinds[i];
            ptype = frame->ptype;
            lanes = plain_lanes(rxdid, frame, kind);
        }
        plain_lanes_store(rxdid, desc, lanes, frame->hash);
    }
}

TARGET_AVX2 static void plain_back_avx2(uint32_t rxdid, uint8_t *desc, const PlainFrames *plain,
                                        unsigned count)
{
    if (rxdid == RXDID_LEGACY)
        plain_back_lanes(RXDID_LEGACY, desc, plain, count);
    else if (rxdid == RXDID_FLEX_OVS)
        plain_back_lanes(RXDID_FLEX_OVS, desc, plain, count);
    else
        plain_back_lanes(RXDID_FLEX_NIC, desc, plain, count);
}

BODY __attribute__((target("avx2"))) void plain_back_alike_lanes(uint32_t rxdid, uint8_t *desc,
                                                                 const Frame *frames,
                                                                 unsigned count, uint64_t kind)
{
    const PlainLanes lanes = plain_lanes(rxdid, frames, kind);
    for (unsigned i = 0; i < count; i++, desc += RX_DESC_SIZE)
        plain_lanes_store(rxdid, desc, lanes, frames[i].hash);
}

TARGET_AVX2 static void plain_back_alike_avx2(uint32_t rxdid, uint8_t *desc, const Frame *frames,
                                              unsigned count, uint64_t kind)
{
    if (rxdid == RXDID_LEGACY)
        plain_back_alike_lanes(RXDID_LEGACY, desc, frames, count, kind);
    else if (rxdid == RXDID_FLEX_OVS)
        plain_back_alike_lanes(RXDID_FLEX_OVS, desc, frames, count, kind);
    else
        plain_back_alike_lanes(RXDID_FLEX_NIC, desc, frames, count, kind);
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
        plain_back = plain_back_avx2;
        plain_copy_alike = plain_copy_alike_avx2;
        plain_back_alike = plain_back_alike_avx2;
        return 1;
    }
#endif
    if (kind != CPU_BASE)
        return 0;
    plain_buffers = plain_buffers_base;
    plain_copy = plain_copy_base;
    plain_back = plain_back_base;
    plain_copy_alike = plain_copy_alike_base;
    plain_back_alike = plain_back_alike_base;
    return 1;
}

__attribute__((constructor)) static void rx_plain_use_best(void) { rx_plain_use(CPU_AVX2); }

#endif
