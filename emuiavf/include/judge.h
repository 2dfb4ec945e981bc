/* Packet type and checksums of most frames: IPv4 without tags, options or fragments, with TCP or UDP,
 * of which nothing is asked.  Everything else is parsed step by step (_offload.pyx).
 *
 * One body, built for the CPU that everybody has and for AVX2, which sums a short packet's IP header
 * and the rest of it in one go.
 */
#ifndef EMUIAVF_JUDGE_H
#define EMUIAVF_JUDGE_H

#include "bits.h"
#include "cpu.h"
#include "csum.h"
#include "frame.h"
#include "protocols.h"

enum {
    PLAIN_IP = 14,    /* where things are in such a frame */
    PLAIN_L4 = 34,
    PLAIN_UDP_LENGTH = 38,
    PLAIN_UDP_CSUM = 40,
    PLAIN_TCP_OFFSET = 46,
    PLAIN_HEADERS = 54, /* bytes of the longest of them */
    PLAIN_WIDE = 64,    /* bytes of IP and L4 together that are summed in one go */
    FRAME_ASKED = FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM | FRAME_ASK_TSO | FRAME_TUNNEL,
    FRAME_FOUND = FRAME_FRAGMENT | FRAME_HASHED | FRAME_IP_BAD | FRAME_TAGGED,
};

/* One's complement sums in 16 bits: of the IP header, and of addresses, L4 and pseudo header. */
typedef struct PlainSums {
    uint32_t ip;
    uint32_t l4;
} PlainSums;

/* `size`: bytes of L4; `fields`: the rest of the pseudo header in memory order. */
BODY PlainSums plain_sums_any(const uint8_t *head, uint32_t size, uint32_t fields)
{
    PlainSums sums;
    sums.ip = csum_fold_u64(csum_short(head + PLAIN_IP, 20));
    sums.l4 = csum_fold_u64(csum_plus(fields, csum_short(head + PLAIN_L4 - 8, size + 8)));
    return sums;
}

typedef PlainSums (*PlainSum)(const uint8_t *head, uint32_t size, uint32_t fields);

/* What of a word at head + 16 (length, id, fragment, TTL, protocol) says that it is a plain packet. */
enum { PLAIN_WORD = 16 };
#define PLAIN_BITS 0xff00ff3f00000000u
#define PLAIN_PROTOCOL(number) ((uint64_t)(number) << 56)

/* 1: the frame is a plain one and has been parsed; `verdict`: and judged, if it can be.  0: it is not
 * and nothing has changed. */
BODY int plain_judge_body(Frame *frame, int verdict, PlainSum short_sums)
{
    const uint8_t *head = frame->head;
    uint32_t flags = frame->flags, size, room = frame->len - PLAIN_L4, kind, l4_len;
    uint64_t word;
    PlainSums sums;
    if (flags & FRAME_ASKED || frame->head_len < PLAIN_HEADERS ||
        (load_u32(head + 12) & 0xffffff) != 0x450008)
        return 0;
    word = load_u64(head + PLAIN_WORD);
    size = (uint32_t)swap_be16((uint16_t)word) - 20;
    if (frame->num_segs)
        verdict = 0;
    if ((word & PLAIN_BITS) == PLAIN_PROTOCOL(17)) {
        uint32_t udp = load_be16(head + PLAIN_UDP_LENGTH);
        kind = (22 + KIND_UDP) | L4_UDP << 8;
        l4_len = 8;
        /* RFC 768: a checksum of 0 says that there is none. */
        if (size > room || udp > size || udp < 8 || load_u16(head + PLAIN_UDP_CSUM) == 0)
            verdict = 0;
        size = udp;
    } else if ((word & PLAIN_BITS) == PLAIN_PROTOCOL(6)) {
        kind = (22 + KIND_TCP) | L4_TCP << 8;
        l4_len = (head[PLAIN_TCP_OFFSET] >> 4) * 4u;
        if (size > room || size < 20)
            verdict = 0;
    } else {
        return 0;
    }
    memcpy(&frame->l2_len, &(uint32_t){PLAIN_IP | 20 << 16}, 4);
    frame->l4_len = (uint16_t)l4_len;
    memcpy(&frame->ptype, &(uint16_t){(uint16_t)kind}, 2);
    frame->hash = 0;
    if (!verdict || flags & (FRAME_L4_GOOD | FRAME_L4_BAD)) {
        sums.ip = csum_fold_u64(csum_short(head + PLAIN_IP, 20));
        sums.l4 = 0;
    } else {
        uint32_t fields = swap_be16((uint16_t)size) + (uint32_t)(word >> 56 << 8);
        sums = size <= PLAIN_WIDE - 20 ? short_sums(head, size, fields)
                                       : plain_sums_any(head, size, fields);
        flags |= __builtin_expect(sums.l4 == 0xffff, 1) ? FRAME_L4_GOOD : FRAME_L4_BAD;
    }
    flags = (flags & ~(uint32_t)(FRAME_FOUND | FRAME_IPV6)) | FRAME_PARSED | FRAME_IPV4;
    if (__builtin_expect(sums.ip != 0xffff, 0))
        flags |= FRAME_IP_BAD;
    frame->flags = flags;
    return 1;
}
_Static_assert(offsetof(Frame, l4_proto) == offsetof(Frame, ptype) + 1 &&
                   offsetof(Frame, l3_len) == offsetof(Frame, l2_len) + 2,
               "as they are written above");

/* The frames of `mask` that are plain; returns them. */
BODY uint32_t plain_judge_all(Burst *burst, uint32_t mask, int verdict, PlainSum short_sums)
{
    uint32_t found = 0;
    for (; mask; mask &= mask - 1) {
        Frame *frame = &burst->frames[lowest_bit(mask)];
        if (!(frame->flags & FRAME_PARSED) && plain_judge_body(frame, verdict, short_sums))
            found |= mask & -mask;
    }
    return found;
}

/* The same without a verdict. */
static int plain_parse(Frame *frame) { return plain_judge_body(frame, 0, plain_sums_any); }

static uint32_t plain_judge_base(Burst *burst, uint32_t mask, int verdict)
{
    return plain_judge_all(burst, mask, verdict, plain_sums_any);
}

static uint32_t (*plain_judge)(Burst *burst, uint32_t mask, int verdict) = plain_judge_base;

#if defined(__x86_64__)
/* Sums of a packet of `size` bytes of L4, at most PLAIN_WIDE with its IP header.  64 bytes from there
 * on can be read: a head has more room. */
TARGET_AVX2 static inline PlainSums plain_sums_avx2(const uint8_t *head, uint32_t size,
                                                    uint32_t fields)
{
    static const uint8_t kept[2 * PLAIN_WIDE] = {
        [0 ... PLAIN_WIDE - 1] = 0xff,
    };
    const uint8_t *keep = kept + PLAIN_WIDE - 20 - size;
    const __m256i low = _mm256_set1_epi32(0xffff);
    const __m256i header = _mm256_set_epi32(0, 0, 0, -1, -1, -1, -1, -1);
    const __m256i addresses = _mm256_set_epi32(-1, -1, -1, -1, -1, 0, 0, 0);
    __m256i a = _mm256_loadu_si256((const __m256i *)(head + PLAIN_IP));
    __m256i b = _mm256_loadu_si256((const __m256i *)(head + PLAIN_IP + 32));
    a = _mm256_and_si256(a, _mm256_loadu_si256((const __m256i *)keep));
    b = _mm256_and_si256(b, _mm256_loadu_si256((const __m256i *)(keep + 32)));
    a = _mm256_add_epi32(_mm256_and_si256(a, low), _mm256_srli_epi32(a, 16));
    b = _mm256_add_epi32(_mm256_and_si256(b, low), _mm256_srli_epi32(b, 16));
    /* Each lane is below 2^17; 13 of them make the longer sum. */
    __m256i both = _mm256_hadd_epi32(_mm256_and_si256(a, header),
                                     _mm256_add_epi32(_mm256_and_si256(a, addresses), b));
    __m128i two = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    uint64_t ip_l4 = (uint64_t)_mm_cvtsi128_si64(_mm_hadd_epi32(two, two));
    uint32_t ip = (uint32_t)ip_l4, l4 = (uint32_t)(ip_l4 >> 32) + fields;
    /* Below 2^21 both: folded once they are below 2^17 - 1, where only 0xffff is a multiple of it. */
    return (PlainSums){(ip & 0xffff) + (ip >> 16), (l4 & 0xffff) + (l4 >> 16)};
}

/* The shortest way, for a frame as its source gave it that is one short packet from end to end, and
 * right: as plain_judge_body with a verdict.  0: it is not, and nothing has changed. */
TARGET_AVX2 static inline int plain_judge_short(Frame *frame)
{
    /* From the EtherType on: that, version, fragment and protocol; 0x11 UDP, 0x06 TCP. */
    const __m128i bits = _mm_setr_epi8(-1, -1, -1, 0, 0, 0, 0, 0, 0x3f, -1, 0, -1, 0, 0, 0, 0);
    const __m128i udp = _mm_setr_epi8(8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0);
    const __m128i tcp = _mm_setr_epi8(8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0);
    const uint8_t *head = frame->head;
    uint32_t cast = frame->flags, lens, fields;
    uint64_t l4_type, lengths = PLAIN_IP | 20 << 16 | (uint64_t)8 << 32;
    memcpy(&lens, &frame->head_len, 4);
    /* With num_segs above it: anything behind the head is too long. */
    if (cast & ~(uint32_t)(FRAME_MULTICAST | FRAME_BROADCAST) ||
        lens - PLAIN_HEADERS > PLAIN_IP + PLAIN_WIDE - PLAIN_HEADERS ||
        load_be16(head + 16) != lens - PLAIN_IP)
        return 0;
    __m128i seen = _mm_and_si128(_mm_loadu_si128((const __m128i *)(head + 12)), bits);
    if (_mm_testc_si128(_mm_cmpeq_epi8(seen, udp), _mm_set1_epi8(-1))) {
        uint16_t length = load_u16(head + PLAIN_UDP_LENGTH);
        /* RFC 768: a checksum of 0 says that there is none. */
        if (swap_be16(length) != lens - PLAIN_L4 || load_u16(head + PLAIN_UDP_CSUM) == 0)
            return 0;
        fields = length + (17 << 8);
        l4_type = (22 + KIND_UDP) | L4_UDP << 8;
    } else if (_mm_testc_si128(_mm_cmpeq_epi8(seen, tcp), _mm_set1_epi8(-1))) {
        fields = swap_be16((uint16_t)(lens - PLAIN_L4)) + (6 << 8);
        lengths = PLAIN_IP | 20 << 16 | (uint64_t)(head[PLAIN_TCP_OFFSET] >> 4) << 34;
        l4_type = (22 + KIND_TCP) | L4_TCP << 8;
    } else {
        return 0;
    }
    PlainSums sums = plain_sums_avx2(head, lens - PLAIN_L4, fields);
    if ((sums.ip & sums.l4) != 0xffff)
        return 0;
    uint64_t flags = cast | FRAME_PARSED | FRAME_IPV4 | FRAME_L4_GOOD;
    memcpy(&frame->flags, &flags, 8);
    memcpy(&frame->l2_len, &lengths, 8);
    memcpy(&frame->ptype, &l4_type, 2);
    return 1;
}
_Static_assert(offsetof(Frame, hash) == offsetof(Frame, flags) + 4 &&
                   offsetof(Frame, num_segs) == offsetof(Frame, head_len) + 2 &&
                   offsetof(Frame, mss) == offsetof(Frame, l2_len) + 6,
               "as they are written above");

TARGET_AVX2 static uint32_t plain_judge_avx2(Burst *burst, uint32_t mask, int verdict)
{
    uint32_t found = 0;
    if (!verdict)
        return plain_judge_all(burst, mask, 0, plain_sums_avx2);
    for (; mask; mask &= mask - 1) {
        Frame *frame = &burst->frames[lowest_bit(mask)];
        if (__builtin_expect(plain_judge_short(frame), 1) ||
            (!(frame->flags & FRAME_PARSED) &&
             plain_judge_body(frame, verdict, plain_sums_avx2)))
            found |= mask & -mask;
    }
    return found;
}
#endif

/* Uses one kind in this extension: the best one from the start, others in tests. */
static int plain_judge_use(int kind)
{
#if defined(__x86_64__)
    if (kind == CPU_AVX2) {
        if (!cpu_has_avx2())
            return 0;
        plain_judge = plain_judge_avx2;
        return 1;
    }
#endif
    if (kind != CPU_BASE)
        return 0;
    plain_judge = plain_judge_base;
    return 1;
}

__attribute__((constructor)) static void plain_judge_use_best(void) { plain_judge_use(CPU_AVX2); }

#endif
