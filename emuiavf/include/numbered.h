/* What fills numbered frames, and the checksum over all of one; their layout: _pattern.pxd.
 *
 * The checksum has four lanes of 64-bit words.
 */
#ifndef EMUIAVF_NUMBERED_H
#define EMUIAVF_NUMBERED_H

#include "bytes.h"

#define PRIME UINT64_C(0x9E3779B97F4A7C15)
#define STRIDE UINT64_C(0xD1B54A32D192ED03)
#define LOW_HALF UINT64_C(0xFFFFFFFF)
#define ADDRESS_MASK UINT64_C(0xFFFFFFFFFFFF)

enum { STAMPED = 64 }; /* bytes of the fixed part, the least that a frame has */

typedef struct Lanes {
    uint64_t lane[4];
} Lanes;

static inline void lanes_init(Lanes *lanes, uint32_t length)
{
    lanes->lane[0] = PRIME ^ length;
    lanes->lane[1] = STRIDE;
    lanes->lane[2] = ~PRIME;
    lanes->lane[3] = ~STRIDE;
}

/* A bijection of the lane, so no single change gets lost. */
static inline uint64_t lane_step(uint64_t lane, uint64_t word)
{
    lane ^= word;
    /* In a register of its own: vectors without a 64-bit product take four times as many steps. */
    __asm__("" : "+r"(lane));
    return lane * PRIME;
}

/* Takes in 32 bytes, at any alignment: tags may have moved them. */
static inline void lanes_add(Lanes *lanes, const void *words)
{
    const uint8_t *data = words;
    for (int i = 0; i < 4; i++)
        lanes->lane[i] = lane_step(lanes->lane[i], load_u64(data + 8 * i));
}

/* Of a word, or of several at once. */
#define FOLD_STEP(h)                                                                               \
    ({                                                                                             \
        __typeof__(h) given = (h);                                                                 \
        (given ^ given >> 32) * STRIDE;                                                            \
    })

static inline uint32_t lanes_fold(const Lanes *lanes)
{
    uint64_t h = FOLD_STEP(lanes->lane[0]);
    for (int i = 1; i < 4; i++)
        h = FOLD_STEP(h + lanes->lane[i]);
    return (uint32_t)(h >> 32);
}

/* Takes in the rest of a frame: whole 32-byte blocks, the last one padded with zeros. */
static inline void lanes_add_bytes(Lanes *lanes, const uint8_t *data, uint32_t size)
{
    uint32_t at = 0;
    for (; size - at >= 32; at += 32)
        lanes_add(lanes, data + at);
    if (at < size) {
        uint64_t words[4] = {0, 0, 0, 0};
        memcpy(words, data + at, size - at);
        lanes_add(lanes, words);
    }
}

/* The pattern of one piece of a frame; whole words, so up to 7 bytes more than `size`. */
static inline void fill(uint8_t *data, uint32_t size, uint64_t seed)
{
    size_t count = (size + 7) / 8;
    for (size_t i = 0; i < count; i++, seed += STRIDE)
        store_u64(data + 8 * i, seed);
}

#endif
