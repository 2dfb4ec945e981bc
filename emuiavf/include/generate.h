/* A burst of numbered frames, four at a time: what differs between the frames of a generator are a
 * few words of their heads.
 *
 * One body, built for the CPU that everybody has and for AVX2.
 */
#ifndef EMUIAVF_GENERATE_H
#define EMUIAVF_GENERATE_H

#include "cpu.h"
#include "frame.h"
#include "numbered.h"
#include "protocols.h"

/* One word of each of four frames. */
typedef uint64_t Words __attribute__((vector_size(32), aligned(8), may_alias));
enum { AT_ONCE = 4 };

typedef struct Generated Generated;

/* Makes `count` frames, of which the first is number `seq` of flow `flow`.  Frames behind the last
 * one may be written as well, since a burst has room for them. */
typedef void (*Generate)(const Generated *all, Burst *burst, unsigned count, uint32_t flow,
                         uint64_t seq, uint64_t now_ns);

/* What the frames of a generator have in common, and what those of its flows do not. */
struct Generated {
    Generate make;
    Frame frame;       /* all but `head` and `segs` */
    uint64_t words[4]; /* the first half of the fixed part ... */
    Lanes lanes;       /* ... and with that taken in */
    uint64_t word5;    /* of frame number 0 */
    uint32_t stride;   /* of `rests` */
    uint8_t *rests;    /* what is behind the head, one for each frame of a burst */
    /* By flow.  Flows take turns: as many as a burst may need follow the last one, from the first
     * on again, so that what a burst needs stands side by side. */
    uint64_t *turn;    /* how often the flows have begun again */
    uint64_t *word4;
    uint64_t *word7;   /* at time 0 */
    uint64_t *lane0;   /* with word 4 taken in ... */
    uint64_t *folded;  /* ... and what lanes_fold makes of that */
};

/* What a frame says of itself that its receivers would find: IPv4 without options, its checksum
 * right; UDP that has none, which is for nobody to doubt. */
static inline Frame generated_frame(uint32_t size, uint64_t dst_mac)
{
    return (Frame){
        .len = size,
        .flags = FRAME_PARSED | FRAME_IPV4 | FRAME_L4_GOOD,
        .head_len = size > FRAME_HEAD ? FRAME_HEAD : size,
        .num_segs = size > FRAME_HEAD,
        .l2_len = 14,
        .l3_len = 20,
        .l4_len = 8,
        .ptype = 22 + KIND_UDP,
        .l4_proto = L4_UDP,
        .dst_mac = dst_mac,
    };
}

/* Frame `i` behind its fixed part; takes it into its lane of each of `lanes`. */
static inline void generate_rest(const Generated *all, Burst *burst, unsigned i, uint64_t seq,
                                 uint64_t flow, Words *lanes, unsigned lane)
{
    Frame *frame = &burst->frames[i];
    uint32_t rest = frame->head_len - STAMPED;
    Lanes own = {{lanes[0][lane], lanes[1][lane], lanes[2][lane], lanes[3][lane]}};
    fill(frame->head + STAMPED, rest, (seq + 1) * PRIME + flow);
    lanes_add_bytes(&own, frame->head + STAMPED, rest);
    if (frame->num_segs) {
        frame->segs = &burst->segs[i];
        frame->segs->data = all->rests + (size_t)i * all->stride;
        frame->segs->len = rest = frame->len - FRAME_HEAD;
        fill(frame->segs->data, rest, (seq + 1) * PRIME ^ flow);
        lanes_add_bytes(&own, frame->segs->data, rest);
    }
    for (int j = 0; j < 4; j++)
        lanes[j][lane] = own.lane[j];
}

/* `longer`: there is something behind the fixed part. */
BODY void generate_frames(const Generated *all, Burst *burst, unsigned count, uint32_t flow,
                          uint64_t seq, uint64_t now_ns, int longer)
{
    const Wide start = *(const Wide *)all->words;
    const Wide front = ((const Wide *)&all->frame)[0], back = ((const Wide *)&all->frame)[1];
    const Words none = {0, 0, 0, 0};
    const Words lane1 = none + all->lanes.lane[1], lane2 = none + all->lanes.lane[2];
    const Words lane3 = none + all->lanes.lane[3], number = none + all->word5;
    uint8_t *head = burst->heads[0] + FRAME_HEADROOM;
    Frame *frame = burst->frames;
    for (unsigned i = 0; i < count; i += AT_ONCE, flow += AT_ONCE) {
        Words seqs = *(const Words *)(all->turn + flow) + seq;
        Words word4 = *(const Words *)(all->word4 + flow);
        Words word5 = seqs << 16 | number;
        Words word6 = seqs >> 48 | now_ns << 16;
        Words word7 = *(const Words *)(all->word7 + flow) | now_ns >> 48;
        Words lanes[4] = {
            *(const Words *)(all->lane0 + flow),
            (word5 ^ lane1) * PRIME,
            (word6 ^ lane2) * PRIME,
            (word7 ^ lane3) * PRIME,
        };
        for (int k = 0; k < AT_ONCE; k++) {
            ((Wide *)(frame + k))[0] = front;
            ((Wide *)(frame + k))[1] = back;
            frame[k].head = head + k * sizeof burst->heads[0];
        }
        if (longer)
            for (unsigned k = 0; k < AT_ONCE && i + k < count; k++)
                generate_rest(all, burst, i + k, seqs[k], word7[k] >> 16, lanes, k);
        Words check = *(const Words *)(all->folded + flow);
        if (longer)
            check = FOLD_STEP(lanes[0]);
        for (int j = 1; j < 4; j++)
            check = FOLD_STEP(check + lanes[j]);
        word7 |= check & ~LOW_HALF;
        /* From words of four frames to four words of a frame. */
        Words a = __builtin_shuffle(word4, word5, (Words){0, 4, 2, 6});
        Words b = __builtin_shuffle(word4, word5, (Words){1, 5, 3, 7});
        Words c = __builtin_shuffle(word6, word7, (Words){0, 4, 2, 6});
        Words d = __builtin_shuffle(word6, word7, (Words){1, 5, 3, 7});
        Words own[AT_ONCE] = {
            __builtin_shuffle(a, c, (Words){0, 1, 4, 5}),
            __builtin_shuffle(b, d, (Words){0, 1, 4, 5}),
            __builtin_shuffle(a, c, (Words){2, 3, 6, 7}),
            __builtin_shuffle(b, d, (Words){2, 3, 6, 7}),
        };
        for (int k = 0; k < AT_ONCE; k++) {
            *(Wide *)head = start;
            *(Words *)(head + 32) = own[k];
            head += sizeof burst->heads[0];
        }
        frame += AT_ONCE;
    }
}
_Static_assert(BURST_FRAMES % AT_ONCE == 0, "frames behind the last one are in the burst");

BODY void generate_body(const Generated *all, Burst *burst, unsigned count, uint32_t flow,
                        uint64_t seq, uint64_t now_ns)
{
    if (all->frame.len > STAMPED)
        generate_frames(all, burst, count, flow, seq, now_ns, 1);
    else
        generate_frames(all, burst, count, flow, seq, now_ns, 0);
}

static void generate_base(const Generated *all, Burst *burst, unsigned count, uint32_t flow,
                          uint64_t seq, uint64_t now_ns)
{
    generate_body(all, burst, count, flow, seq, now_ns);
}

#if defined(__x86_64__)
TARGET_AVX2 static void generate_avx2(const Generated *all, Burst *burst, unsigned count,
                                      uint32_t flow, uint64_t seq, uint64_t now_ns)
{
    generate_body(all, burst, count, flow, seq, now_ns);
}
#endif

/* Uses one kind: the best one from the start, others in tests. */
static int generate_use(Generated *all, int kind)
{
#if defined(__x86_64__)
    if (kind == CPU_AVX2) {
        if (!cpu_has_avx2())
            return 0;
        all->make = generate_avx2;
        return 1;
    }
#endif
    if (kind != CPU_BASE)
        return 0;
    all->make = generate_base;
    return 1;
}

#endif
