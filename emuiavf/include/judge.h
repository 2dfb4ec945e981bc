/* Packet type, checksums and hash of most frames: IPv4 without tags, options or fragments, with TCP or
 * UDP, of which nothing is asked.  Everything else is parsed step by step (_offload.pyx).
 *
 * One body judges a frame for the CPU that everybody has.  For AVX2 there is a loop in front of it
 * that takes packets by fours: what those of one length and protocol have in common is found once
 * (PlainLike) and compared in one go, and sums and hashes of the four are finished together.
 */
#ifndef EMUIAVF_JUDGE_H
#define EMUIAVF_JUDGE_H

#include "bits.h"
#include "cpu.h"
#include "csum.h"
#include "frame.h"
#include "protocols.h"
#include "toeplitz.h"

enum {
    PLAIN_IP = 14,    /* where things are in such a frame */
    PLAIN_FLOW = 26,  /* addresses and ports, 12 bytes in a row */
    PLAIN_L4 = 34,
    PLAIN_UDP_LENGTH = 38,
    PLAIN_UDP_CSUM = 40,
    PLAIN_TCP_OFFSET = 46,
    PLAIN_HEADERS = 54, /* bytes of the longest of them */
    PLAIN_WIDE = 64,    /* bytes of IP and L4 together that are summed in one go */
    FRAME_CAST = FRAME_MULTICAST | FRAME_BROADCAST,
    FRAME_ASKED = FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM | FRAME_ASK_TSO | FRAME_TUNNEL,
    FRAME_FOUND = FRAME_FRAGMENT | FRAME_HASHED | FRAME_IP_BAD | FRAME_TAGGED,
    FRAME_SETTLED = FRAME_L4_GOOD | FRAME_L4_BAD,
};

/* What a receiver wants to know. */
typedef struct PlainWish {
    const ToeplitzKey *key;
    uint32_t hashed;  /* bit per L4_*: packets whose flow is hashed */
    uint32_t verdict; /* on L4 checksums, where they are not known yet */
} PlainWish;

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

/* Whether what is known of a frame from an earlier receiver says that it is plain, and leaves nothing
 * to be settled. */
static inline int plain_is_known(const Frame *frame, uint32_t verdict)
{
    uint32_t flags = frame->flags;
    return (flags & (FRAME_PARSED | FRAME_IPV4 | FRAME_FRAGMENT | FRAME_ASKED)) ==
               (FRAME_PARSED | FRAME_IPV4) &&
           frame->l2_len == PLAIN_IP && frame->l3_len == 20 &&
           (frame->l4_proto == L4_UDP || frame->l4_proto == L4_TCP) &&
           (!verdict || frame->num_segs || flags & FRAME_SETTLED);
}

/* The frames of `mask` that are plain; returns them. */
BODY uint32_t plain_judge_all(Burst *burst, uint32_t mask, const PlainWish *wish,
                              PlainSum short_sums)
{
    const uint8_t *flows[BURST_FRAMES];
    Frame *hashed[BURST_FRAMES];
    uint32_t hashes[BURST_FRAMES], found = 0, num = 0;
    for (; mask; mask &= mask - 1) {
        Frame *frame = &burst->frames[lowest_bit(mask)];
        if (frame->flags & FRAME_PARSED ? !plain_is_known(frame, wish->verdict)
                                        : !plain_judge_body(frame, (int)wish->verdict, short_sums))
            continue;
        found |= mask & -mask;
        /* Not remembered from an earlier receiver: its key was another. */
        frame->flags &= ~(uint32_t)FRAME_HASHED;
        frame->hash = 0;
        hashed[num] = frame;
        flows[num] = frame->head + PLAIN_FLOW;
        num += wish->hashed >> frame->l4_proto & 1;
    }
    if (num)
        toeplitz_flows(wish->key, flows, num, hashes);
    for (unsigned i = 0; i < num; i++) {
        hashed[i]->hash = hashes[i];
        hashed[i]->flags |= FRAME_HASHED;
    }
    return found;
}

/* Nothing but packet type and lengths. */
static int plain_parse(Frame *frame) { return plain_judge_body(frame, 0, plain_sums_any); }

static uint32_t plain_judge_base(Burst *burst, uint32_t mask, const PlainWish *wish,
                                 uint64_t *kind)
{
    *kind = 0;
    return plain_judge_all(burst, mask, wish, plain_sums_any);
}

/* The frames of `mask` that are plain; they have been parsed, judged and hashed.  `kind`: what
 * frame_kind() says of each of them and their type are the same, or 0 if that is not known. */
static uint32_t (*plain_judge)(Burst *burst, uint32_t mask, const PlainWish *wish,
                               uint64_t *kind) = plain_judge_base;

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

/* Plain packets of one length and protocol: what is expected of them, and what they become.
 *
 * Words are summed by a multiplication with 1, or with 0 what is not of a sum.  It takes them as
 * signed, so their highest bits are turned over before, and `rest` makes up for that. */
typedef struct PlainLike {
    __m256i bits, most, front; /* min(bits & bytes, most) == front, from PLAIN_FRONT on */
    __m256i first, second;     /* words of the L4 sum, of the 64 bytes from the IP header on */
    __m256i rest;              /* of the IP sum and the L4 sum, by turns */
    __m128i addresses, ports;  /* windows of the key; 0 where nothing is hashed */
    uint64_t kind;             /* of the Frame as it comes: len, flags; 0: nothing is like it */
    uint64_t lengths;          /* of the Frame when all is right: l2_len, l3_len, l4_len, mss */
    uint32_t head_lens;        /* as it comes: head_len, num_segs */
    uint32_t flags;            /* when all is right */
    uint16_t type;             /* ... ptype, l4_proto */
} PlainLike;

enum { PLAIN_LIKES = 4 };

/* Those of late, for the traffic that has more than one length or protocol. */
typedef struct PlainLikes {
    PlainLike of[PLAIN_LIKES];
    uint64_t serial; /* the wish that they were made for: its key's, 0 for none */
    uint32_t hashed, verdict;
    uint32_t last; /* the one that fitted last */
    uint32_t next; /* the next to be made anew */
} PlainLikes;
_Static_assert(sizeof(PlainLikes) <= sizeof ((Burst *)NULL)->judged &&
                   offsetof(Burst, judged) % _Alignof(PlainLikes) == 0,
               "they are kept from burst to burst");

/* Those kept in the burst, without kinds if they were made for another wish. */
TARGET_AVX2 static inline PlainLikes *plain_kept(Burst *burst, const PlainWish *wish)
{
    PlainLikes *likes = (PlainLikes *)burst->judged;
    uint64_t serial = wish->hashed ? wish->key->serial : 0;
    if (likes->serial != serial || likes->hashed != wish->hashed ||
        likes->verdict != wish->verdict) {
        likes->serial = serial;
        likes->hashed = wish->hashed;
        likes->verdict = wish->verdict;
        likes->last = likes->next = 0;
        for (unsigned i = 0; i < PLAIN_LIKES; i++)
            likes->of[i].kind = 0;
    }
    return likes;
}

enum {
    PLAIN_FRONT = 12,   /* EtherType to UDP checksum are the 32 bytes from here on */
    PLAIN_IP_WORDS = 10,
};
#define PLAIN_TURN 0x8000u

/* Whether a frame can be a plain packet of which nothing is asked and nothing wrong is known. */
static inline int plain_begins(const Frame *frame)
{
    const uint32_t bearable =
        FRAME_CAST | FRAME_SETTLED | FRAME_PARSED | FRAME_IPV4 | FRAME_HASHED;
    return !(frame->flags & ~bearable) &&
           (frame->flags & (FRAME_PARSED | FRAME_IPV4)) != FRAME_PARSED &&
           frame->head_len >= PLAIN_HEADERS &&
           (load_u32(frame->head + PLAIN_FRONT) & 0xffffff) == 0x450008;
}

/* Makes `like` of a frame that begins as a plain one; 0, and nothing changes, when frames like it are
 * not for this way. */
TARGET_AVX2 __attribute__((noinline)) static int plain_like(PlainLike *like, const Frame *frame,
                                                            const PlainWish *wish)
{
    static const uint16_t ones[48] = {[16 ... 31] = 1};
    const uint8_t *head = frame->head;
    const int tcp = head[PLAIN_IP + 9] == 6;
    uint32_t flags = frame->flags, len = frame->len, terms = 0, fields = 0xffff;
    uint32_t hashed = wish->hashed >> (tcp ? L4_TCP : L4_UDP) & 1;
    int wanted = wish->verdict && !frame->num_segs && !(flags & FRAME_SETTLED);
    /* RFC 768: a checksum of 0 says that there is none. */
    int verdict = wanted && (tcp || load_u16(head + PLAIN_UDP_CSUM) != 0);
    uint8_t bits[32] = {255, 255, 255, 0, 0, 0, 0, 0, 0x3f, 255, 0, 255};
    uint8_t front[32] = {8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 0, tcp ? 6 : 17}, most[32];
    if (verdict && (len > PLAIN_IP + PLAIN_WIDE || len & 1))
        return 0;
    memset(most, 255, sizeof most);
    if (wanted && !tcp) {
        memset(bits + PLAIN_UDP_CSUM - PLAIN_FRONT, 255, 2);
        store_u16(most + PLAIN_UDP_CSUM - PLAIN_FRONT, 1);
        store_u16(front + PLAIN_UDP_CSUM - PLAIN_FRONT, (uint16_t)verdict);
    }
    if (verdict) {
        uint32_t size = len - PLAIN_L4;
        /* The packet ends with the frame, and the datagram with the packet. */
        memset(bits + 16 - PLAIN_FRONT, 255, 2);
        store_be16(front + 16 - PLAIN_FRONT, (uint16_t)(len - PLAIN_IP));
        if (!tcp) {
            memset(bits + PLAIN_UDP_LENGTH - PLAIN_FRONT, 255, 2);
            store_be16(front + PLAIN_UDP_LENGTH - PLAIN_FRONT, (uint16_t)size);
        }
        terms = (len - PLAIN_FLOW) / 2;
        fields = swap_be16((uint16_t)size) + ((tcp ? 6u : 17u) << 8);
    }
    like->bits = _mm256_loadu_si256((const __m256i *)bits);
    like->front = _mm256_loadu_si256((const __m256i *)front);
    like->most = _mm256_loadu_si256((const __m256i *)most);
    /* The first PLAIN_IP_WORDS of the L4 sum end the first 32 bytes. */
    like->first = _mm256_loadu_si256((const __m256i *)(ones + (terms ? 16 - 6 : 32)));
    like->second = _mm256_loadu_si256((const __m256i *)(ones + 32 - (terms ? terms - 10 : 0)));
    like->rest = _mm256_set1_epi64x((int64_t)((uint64_t)(fields + PLAIN_TURN * terms) << 32 |
                                              PLAIN_TURN * PLAIN_IP_WORDS));
    like->addresses = like->ports = _mm_setzero_si128();
    if (hashed) {
        like->addresses = _mm_loadu_si128((const __m128i *)wish->key->windows_v4);
        like->ports = _mm_loadl_epi64((const __m128i *)(wish->key->windows_v4 + 2));
    }
    like->kind = frame_kind(frame);
    like->head_lens = frame_head_lens(frame);
    like->flags = (flags & (FRAME_CAST | FRAME_SETTLED)) | FRAME_PARSED | FRAME_IPV4 |
                  (verdict ? FRAME_L4_GOOD : 0) | (hashed ? FRAME_HASHED : 0);
    like->lengths = PLAIN_IP | 20 << 16 | (tcp ? 0 : (uint64_t)8 << 32);
    like->type = tcp ? (22 + KIND_TCP) | L4_TCP << 8 : (22 + KIND_UDP) | L4_UDP << 8;
    return 1;
}

/* Four frames (the same one again where there are fewer), if they all are like it and all sums are
 * right: they are parsed, judged and hashed then.  Else 0, and nothing has changed.  What lies behind
 * 64 bytes from the IP header on is not read. */
BODY TARGET_AVX2 int plain_four(const PlainLike *like, Frame *const *frames, int fold)
{
    /* Words of a flow from network order: each address into a half of its own, then both ports. */
    const __m128i spread = _mm_set_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 0, 1, 2, 3);
    const __m128i last = _mm_set_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 8, 9, 10, 11);
    const __m128i swapped =
        _mm_set_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 10, 11, 8, 9);
    const __m256i ip_words = _mm256_set_epi32(0, 0, 0, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001);
    const __m256i low = _mm256_set1_epi32(0xffff);
    __m256i turn = _mm256_set1_epi16((short)PLAIN_TURN);
    const uint64_t lengths = like->lengths;
    const uint16_t type = like->type;
    __m256i differ = _mm256_setzero_si256(), sums[4];
    __m128i products[4];
    __asm__("" : "+x"(turn)); /* a register, not made anew each time */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const uint8_t *head = frames[i]->head;
        if (frame_kind(frames[i]) != like->kind || frame_head_lens(frames[i]) != like->head_lens)
            return 0;
        __m256i seen = _mm256_loadu_si256((const __m256i *)(head + PLAIN_FRONT));
        seen = _mm256_min_epu16(_mm256_and_si256(seen, like->bits), like->most);
        differ = _mm256_or_si256(differ, _mm256_xor_si256(seen, like->front));
        __m256i a = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(head + PLAIN_IP)), turn);
        __m256i b =
            _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(head + PLAIN_IP + 32)), turn);
        __m256i l4 =
            _mm256_add_epi32(_mm256_madd_epi16(a, like->first), _mm256_madd_epi16(b, like->second));
        sums[i] = _mm256_hadd_epi32(_mm256_madd_epi16(a, ip_words), l4);
        __m128i flow = _mm_loadu_si128((const __m128i *)(head + PLAIN_FLOW));
        __m128i pair = _mm_shuffle_epi8(flow, spread);
        __m128i word = _mm_shuffle_epi8(flow, last);
        if (fold)
            word = _mm_xor_si128(word, _mm_shuffle_epi8(flow, swapped));
        __m128i product = _mm_xor_si128(_mm_clmulepi64_si128(pair, like->addresses, 0x00),
                                        _mm_clmulepi64_si128(pair, like->addresses, 0x11));
        products[i] = _mm_xor_si128(product, _mm_clmulepi64_si128(word, like->ports, 0x00));
    }
    __m256i ab = _mm256_hadd_epi32(sums[0], sums[1]), cd = _mm256_hadd_epi32(sums[2], sums[3]);
    __m256i all = _mm256_add_epi32(_mm256_permute2x128_si256(ab, cd, 0x20),
                                   _mm256_permute2x128_si256(ab, cd, 0x31));
    all = _mm256_add_epi32(all, like->rest);
    /* Below 2^21: folded once they are below 2^17 - 1, where only 0xffff is a multiple of it. */
    all = _mm256_add_epi32(_mm256_and_si256(all, low), _mm256_srli_epi32(all, 16));
    differ = _mm256_or_si256(differ, _mm256_xor_si256(all, low));
    if (!_mm256_testz_si256(differ, differ))
        return 0;
    __m128i first = _mm_srli_epi64(_mm_unpacklo_epi64(products[0], products[1]), 31);
    __m128i second = _mm_srli_epi64(_mm_unpacklo_epi64(products[2], products[3]), 31);
    __m128i hashes = toeplitz_order_4(_mm_castps_si128(
        _mm_shuffle_ps(_mm_castsi128_ps(first), _mm_castsi128_ps(second), 0x88)));
    __m128i flags = _mm_set1_epi32((int)like->flags);
    first = _mm_unpacklo_epi32(flags, hashes);
    second = _mm_unpackhi_epi32(flags, hashes);
    _mm_storel_pi((__m64 *)&frames[0]->flags, _mm_castsi128_ps(first));
    _mm_storeh_pi((__m64 *)&frames[1]->flags, _mm_castsi128_ps(first));
    _mm_storel_pi((__m64 *)&frames[2]->flags, _mm_castsi128_ps(second));
    _mm_storeh_pi((__m64 *)&frames[3]->flags, _mm_castsi128_ps(second));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        memcpy(&frames[i]->l2_len, &lengths, 8);
        memcpy(&frames[i]->ptype, &type, 2);
    }
    if (__builtin_expect(type >> 8 == L4_TCP, 0))
        for (int i = 0; i < 4; i++)
            frames[i]->l4_len = (uint16_t)((frames[i]->head[PLAIN_TCP_OFFSET] >> 4) * 4);
    return 1;
}
_Static_assert(offsetof(Frame, hash) == offsetof(Frame, flags) + 4 &&
                   offsetof(Frame, mss) == offsetof(Frame, l2_len) + 6,
               "as they are written above");

/* What a frame is like by length, flags and protocol, or NULL. */
static __attribute__((noinline)) PlainLike *plain_known(PlainLikes *likes, const Frame *frame)
{
    uint32_t proto = frame->head[PLAIN_IP + 9] == 6 ? L4_TCP : L4_UDP;
    for (unsigned i = 0; i < PLAIN_LIKES; i++) {
        PlainLike *like = &likes->of[i];
        if (like->kind == frame_kind(frame) && like->head_lens == frame_head_lens(frame) &&
            (uint32_t)like->type >> 8 == proto)
            return like;
    }
    return NULL;
}

/* The first frames of `mask` with the length, flags and protocol of the very first, four at most,
 * the last of them again where there are fewer; returns which they are. */
__attribute__((noinline)) static uint32_t plain_gather(Burst *burst, uint32_t mask, Frame **frames)
{
    const Frame *first = &burst->frames[lowest_bit(mask)];
    uint32_t picked = 0;
    unsigned count = 0;
    for (; mask && count < 4; mask &= mask - 1) {
        Frame *frame = &burst->frames[lowest_bit(mask)];
        if (frame_kind(frame) == frame_kind(first) &&
            frame_head_lens(frame) == frame_head_lens(first) &&
            frame->head[PLAIN_IP + 9] == first->head[PLAIN_IP + 9]) {
            frames[count++] = frame;
            picked |= mask & -mask;
        }
    }
    for (; count < 4; count++)
        frames[count] = frames[count - 1];
    return picked;
}

/* plain_judge as far as it goes by fours. */
BODY TARGET_AVX2 uint32_t plain_judge_fours(Burst *burst, uint32_t mask, const PlainWish *wish,
                                            int fold, uint64_t *kind)
{
    PlainLikes *const likes = plain_kept(burst, wish);
    PlainLike *like = &likes->of[likes->last];
    uint32_t left = mask, found = 0;
    int same = 1;
    while (left) {
        PlainLike *now;
        uint32_t at = (uint32_t)lowest_bit(left), picked = 15u << at;
        Frame *frame = &burst->frames[at];
        Frame *frames[4] = {frame, frame + 1, frame + 2, frame + 3};
        /* Most often the next four are like the four before them. */
        if (__builtin_expect((left & picked) == picked && at <= BURST_FRAMES - 4, 1) &&
            __builtin_expect(plain_four(like, frames, fold), 1)) {
            left &= ~picked;
            found |= picked;
            continue;
        }
        if (!plain_begins(frame)) {
            /* Nor do those behind it, most often; who does is judged by itself. */
            left &= ~picked;
            continue;
        }
        picked = plain_gather(burst, left, frames);
        left &= ~picked;
        now = plain_known(likes, frame);
        same &= now == like || !found;
        if (now == NULL || !plain_four(now, frames, fold)) {
            /* The first of its kind for some time, or something is wrong with a packet. */
            same &= !found;
            if (now == NULL) {
                now = &likes->of[likes->next];
                likes->next = (likes->next + 1) % PLAIN_LIKES;
            }
            if (!plain_like(now, frame, wish) || !plain_four(now, frames, fold))
                continue;
        }
        like = now;
        found |= picked;
    }
    likes->last = (uint32_t)(like - likes->of);
    *kind = 0;
    if (same && found == mask)
        *kind = (uint64_t)like->flags << 32 | (uint32_t)like->kind;
    return found;
}

TARGET_AVX2 static uint32_t plain_judge_avx2(Burst *burst, uint32_t mask, const PlainWish *wish,
                                             uint64_t *kind)
{
    uint32_t found, others;
    if (__builtin_expect(wish->hashed && wish->key->fold, 0))
        found = plain_judge_fours(burst, mask, wish, 1, kind);
    else
        found = plain_judge_fours(burst, mask, wish, 0, kind);
    others = mask & ~found;
    if (__builtin_expect(others, 0))
        found |= plain_judge_all(burst, others, wish, plain_sums_avx2);
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
