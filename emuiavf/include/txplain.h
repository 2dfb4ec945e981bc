/* Plain frames out of a Tx ring, many at a time: one descriptor each, nothing asked, and a buffer
 * within reach (mem.h).
 *
 * Two steps: the descriptors are judged, each qword read once; then the heads are copied and judged.
 * Each step is one body, built for the CPU that everybody has and for AVX2.
 */
#ifndef EMUIAVF_TXPLAIN_H
#define EMUIAVF_TXPLAIN_H

#include "atomics.h"
#include "bits.h"
#include "bytes.h"
#include "cpu.h"
#include "frame.h"
#include "mem.h"
#include "txdesc.h"

/* A head is copied in moves of 64 bytes, whatever its length: what lies behind a frame is its
 * sender's own memory, and stays in the private copy. */
_Static_assert(FRAME_HEAD == 2 * 64, "a head is two moves");

typedef struct PlainRun {
    uint8_t *hosts[BURST_FRAMES];
    uint32_t lens[BURST_FRAMES];
    uint32_t reports; /* bit per frame: RS */
    uint32_t size;    /* all lengths ORed: none is greater */
    uint32_t least;   /* all lengths ANDed: as `size` when they are the same */
} PlainRun;

/* What the frames of a take have in common: their bytes, and of the first eight bytes of each, in
 * which the destination address stands, the bits that all of them have and those that any has. */
typedef struct PlainCommon {
    uint64_t bytes;
    uint64_t all;
    uint64_t any;
} PlainCommon;

static inline PlainCommon plain_common(void) { return (PlainCommon){0, ~0ull, 0}; }

/* Burst.alike of the frames. */
static inline uint64_t plain_alike(const PlainCommon *common)
{
    uint64_t differ = (common->all ^ common->any) & FRAME_BROADCAST_MAC;
    return differ || common->any & 1 ? 0 : common->bytes;
}

/* Where plain frames may begin, and how long they may be for that: at least a whole head can be read
 * from there on. */
typedef struct PlainReach {
    MemReach at;
    uint32_t longest; /* 0: nowhere */
} PlainReach;

static inline PlainReach plain_reach(const Extent *hint)
{
    PlainReach reach = {{0, 0, NULL}, 0};
    reach.longest = hint == NULL || hint->size >= FRAME_MAX_LEN ? FRAME_MAX_LEN : FRAME_HEAD;
    reach.at = mem_reach(hint, reach.longest, MEM_READ);
    return reach;
}

/* Frame number `at` from its descriptor; 0 when it is not a plain one. */
static inline unsigned plain_scan_one(const uint64_t *desc, const PlainReach *reach, unsigned at,
                                      PlainRun *run)
{
    uint64_t word = load_relaxed_u64(desc + 1);
    uint32_t len = (uint32_t)(word >> TXD_BUFSZ_SHIFT) & TXD_BUFSZ_MASK;
    uint8_t *host = mem_reached(&reach->at, load_relaxed_u64(desc));
    if ((word & TXD_NOT_PLAIN) != TXD_EOP || len - FRAME_MIN_LEN > reach->longest - FRAME_MIN_LEN ||
        host == NULL)
        return 0;
    run->hosts[at] = host;
    run->lens[at] = len;
    run->size |= len;
    run->least &= len;
    run->reports |= ((uint32_t)word / TXD_RS & 1) << at;
    return 1;
}

static unsigned plain_scan_base(const uint64_t *desc, unsigned limit, const PlainReach *reach,
                                  PlainRun *run)
{
    unsigned at = 0;
    run->reports = run->size = 0;
    run->least = ~0u;
    while (at < limit && plain_scan_one(desc + 2 * at, reach, at, run))
        at++;
    return at;
}

#if defined(__x86_64__)
/* Four descriptors at a time. */
TARGET_AVX2 static unsigned plain_scan_avx2(const uint64_t *desc, unsigned limit,
                                            const PlainReach *reach, PlainRun *run)
{
    const __m256i bits = _mm256_set1_epi64x(TXD_NOT_PLAIN), plain = _mm256_set1_epi64x(TXD_EOP);
    const __m256i least = _mm256_set1_epi64x(FRAME_MIN_LEN - 1);
    const __m256i most = _mm256_set1_epi64x((int64_t)reach->longest + 1);
    const __m256i iova = _mm256_set1_epi64x((int64_t)reach->at.iova);
    const __m256i size = _mm256_set1_epi64x((int64_t)reach->at.size);
    const __m256i host = _mm256_set1_epi64x((int64_t)(uintptr_t)reach->at.host);
    const __m256i halves = _mm256_set_epi32(7, 7, 7, 7, 6, 4, 2, 0);
    __m256i any = _mm256_setzero_si256(), all = _mm256_set1_epi64x(-1);
    unsigned at = 0;
    uint32_t reports = 0;
    for (; at + 4 <= limit; at += 4) {
        __m256i ab = _mm256_loadu_si256((const __m256i *)(desc + 2 * at));
        __m256i cd = _mm256_loadu_si256((const __m256i *)(desc + 2 * at + 4));
        __asm__("" : "+x"(ab), "+x"(cd)); /* read once, also by a compiler short of registers */
        /* a c b d, put in order */
        __m256i from = _mm256_permute4x64_epi64(_mm256_unpacklo_epi64(ab, cd), 0xd8);
        __m256i word = _mm256_permute4x64_epi64(_mm256_unpackhi_epi64(ab, cd), 0xd8);
        __m256i len = _mm256_and_si256(_mm256_srli_epi64(word, TXD_BUFSZ_SHIFT),
                                       _mm256_set1_epi64x(TXD_BUFSZ_MASK));
        __m256i offset = _mm256_sub_epi64(from, iova);
        __m256i good = _mm256_cmpeq_epi64(_mm256_and_si256(word, bits), plain);
        good = _mm256_and_si256(good, _mm256_cmpgt_epi64(len, least));
        good = _mm256_and_si256(good, _mm256_cmpgt_epi64(most, len));
        /* Unsigned: sizes are below 2^63, an offset above that is not one. */
        good = _mm256_and_si256(good, _mm256_cmpgt_epi64(size, offset));
        good = _mm256_andnot_si256(offset, good);
        if (_mm256_movemask_pd(_mm256_castsi256_pd(good)) != 15)
            break;
        _mm256_storeu_si256((__m256i *)(run->hosts + at), _mm256_add_epi64(offset, host));
        _mm_storeu_si128((__m128i *)(run->lens + at),
                         _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(len, halves)));
        any = _mm256_or_si256(any, len);
        all = _mm256_and_si256(all, len);
        reports |= (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_slli_epi64(word, 58)))
                   << at;
    }
    __m128i two = _mm_or_si128(_mm256_castsi256_si128(any), _mm256_extracti128_si256(any, 1));
    run->size = (uint32_t)(_mm_cvtsi128_si32(two) | _mm_extract_epi32(two, 2));
    two = _mm_and_si128(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    run->least = (uint32_t)(_mm_cvtsi128_si32(two) & _mm_extract_epi32(two, 2));
    run->reports = reports;
    while (at < limit && plain_scan_one(desc + 2 * at, reach, at, run))
        at++;
    return at;
}
_Static_assert(TXD_RS == 1 << (63 - 58), "RS is moved to the sign");
#endif

/* The flags of frames for groups, which plain_fill_short does not look for. */
static __attribute__((noinline)) void plain_cast(Frame *frame, unsigned count)
{
    for (; count--; frame++)
        frame->flags |= frame_cast(frame->dst_mac);
}

/* What is judged from here on is what stands in the head, not what stood in the buffer. */
BODY void plain_settle(uint8_t *head) { __asm__("" : "+m"(*(uint8_t(*)[FRAME_HEAD])head)); }

/* Frames of which `found` is what they have in common lie wholly in their heads. */
BODY void plain_filled(Burst *burst, unsigned first, unsigned count, PlainCommon found,
                       PlainCommon *common)
{
    if (__builtin_expect(found.any & 1, 0))
        plain_cast(&burst->frames[first], count);
    burst->whole |= low_bits(count) << first;
    common->all &= found.all;
    common->any |= found.any;
    common->bytes += found.bytes;
}

/* plain_fill for frames that one move copies. */
BODY void plain_fill_short(Burst *burst, unsigned first, const PlainRun *run, unsigned count,
                           uint32_t slot, PlainCommon *common)
{
    Frame *frame = &burst->frames[first];
    uint8_t *head = burst->heads[first] + FRAME_HEADROOM;
    uint64_t all = ~0ull, any = 0, bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        uint32_t len = run->lens[i];
        move_64(head, run->hosts[i]);
        plain_settle(head);
        uint64_t word = load_u64(head);
        if (len > 64)
            __builtin_unreachable();
        frame_begin(frame, head, len, ++slot, word, 0);
        all &= word;
        any |= word;
        bytes += len;
        frame++;
        head += sizeof burst->heads[0];
    }
    plain_filled(burst, first, count, (PlainCommon){bytes, all, any}, common);
}

BODY unsigned plain_fill_any(Burst *burst, unsigned first, const PlainRun *run, unsigned count,
                             uint32_t slot, uint32_t budget, PlainCommon *common)
{
    Frame *frame = &burst->frames[first];
    uint8_t *head = burst->heads[first] + FRAME_HEADROOM;
    uint32_t spent = 0, longer = 0, num_segs = burst->num_segs;
    unsigned i = 0;
    for (; i < count && spent < budget; i++) {
        uint8_t *host = run->hosts[i];
        uint32_t len = run->lens[i];
        move_64(head, host);
        if (__builtin_expect(len > 64, 0)) {
            move_64(head + 64, host + 64);
            if (len > FRAME_HEAD) {
                if (num_segs >= BURST_SEGMENTS)
                    break;
                Segment *rest = &burst->segs[num_segs++];
                rest->data = host + FRAME_HEAD;
                rest->len = len - FRAME_HEAD;
                frame->segs = rest;
                longer |= 1u << i;
            }
        }
        plain_settle(head);
        uint64_t word = load_u64(head);
        frame_begin(frame, head, len, slot + i + 1, word, frame_cast(word & FRAME_BROADCAST_MAC));
        common->all &= word;
        common->any |= word;
        spent += len;
        frame++;
        head += sizeof burst->heads[0];
    }
    burst->num_segs = num_segs;
    burst->whole |= (low_bits(i) & ~longer) << first;
    common->bytes += spent;
    return i;
}

BODY unsigned plain_fill_body(Burst *burst, unsigned first, const PlainRun *run, unsigned count,
                              uint32_t slot, uint32_t budget, PlainCommon *common)
{
    if (__builtin_expect(run->size > 64 || count * 64 > budget, 0))
        return plain_fill_any(burst, first, run, count, slot, budget, common);
    plain_fill_short(burst, first, run, count, slot, common);
    return count;
}

static unsigned plain_fill_base(Burst *burst, unsigned first, const PlainRun *run, unsigned count,
                                uint32_t slot, uint32_t budget, PlainCommon *common)
{
    return plain_fill_body(burst, first, run, count, slot, budget, common);
}

/* How many of the `limit` descriptors at `desc` are plain frames within reach, before the first that
 * is not. */
static unsigned (*plain_scan)(const uint64_t *desc, unsigned limit, const PlainReach *reach,
                              PlainRun *run) = plain_scan_base;
/* Frames from `first` on, of a run of `count` whose descriptors begin at `slot`, as long as `budget`
 * bytes are left to begin with; returns how many. */
static unsigned (*plain_fill)(Burst *burst, unsigned first, const PlainRun *run, unsigned count,
                              uint32_t slot, uint32_t budget,
                              PlainCommon *common) = plain_fill_base;

#if defined(__x86_64__)
/* plain_fill_short for frames of one length: what frame_begin writes is alike but for next_slot. */
TARGET_AVX2 static inline void plain_fill_alike(Burst *burst, unsigned first, const PlainRun *run,
                                                unsigned count, uint32_t slot, PlainCommon *common)
{
    Frame *frame = &burst->frames[first];
    uint8_t *head = burst->heads[first] + FRAME_HEADROOM;
    uint64_t all = ~0ull, any = 0;
    const __m256i next = _mm256_set_epi64x(1ll << 32, 0, 0, 0);
    __m256i words;
    frame_begin(frame, head, run->size, slot + 1, 0, 0);
    words = _mm256_loadu_si256((const __m256i *)&frame->len);
    for (unsigned i = 0; i < count; i++) {
        move_64(head, run->hosts[i]);
        plain_settle(head);
        uint64_t word = load_u64(head);
        frame->head = head;
        frame->dst_mac = word & FRAME_BROADCAST_MAC;
        _mm256_storeu_si256((__m256i *)&frame->len, words);
        words = _mm256_add_epi64(words, next);
        all &= word;
        any |= word;
        frame++;
        head += sizeof burst->heads[0];
    }
    plain_filled(burst, first, count, (PlainCommon){(uint64_t)run->size * count, all, any}, common);
}
_Static_assert(offsetof(Frame, vlan_tci) == offsetof(Frame, len) + 32 &&
                   offsetof(Frame, next_slot) == offsetof(Frame, len) + 28,
               "the words are all that frame_begin writes in one go");

TARGET_AVX2 static unsigned plain_fill_avx2(Burst *burst, unsigned first, const PlainRun *run,
                                            unsigned count, uint32_t slot, uint32_t budget,
                                            PlainCommon *common)
{
    if (__builtin_expect(run->size != run->least || run->size > 64 || count * 64 > budget, 0))
        return plain_fill_body(burst, first, run, count, slot, budget, common);
    plain_fill_alike(burst, first, run, count, slot, common);
    return count;
}
#endif

/* Uses one kind in this extension: the best one from the start, others in tests. */
static int tx_plain_use(int kind)
{
#if defined(__x86_64__)
    if (kind == CPU_AVX2) {
        if (!cpu_has_avx2())
            return 0;
        plain_scan = plain_scan_avx2;
        plain_fill = plain_fill_avx2;
        return 1;
    }
#endif
    if (kind != CPU_BASE)
        return 0;
    plain_scan = plain_scan_base;
    plain_fill = plain_fill_base;
    return 1;
}

__attribute__((constructor)) static void tx_plain_use_best(void) { tx_plain_use(CPU_AVX2); }

#endif
