/* What is looked at in a frame to hash it, or to find a rule for it, as a guest has chosen: words at
 * places that its parser has found, and tables of them by packet type.
 *
 * Tables are immutable once published.  Words are numbers, most significant byte first in the frame.
 */
#ifndef EMUIAVF_FLOW_H
#define EMUIAVF_FLOW_H

#include "frame.h"
#include "toeplitz.h"

enum {
    FLOW_HASH_WORDS = 24, /* IPv6 addresses (8), ports, and every other field there is */
    FLOW_PTYPES = 256,
};

/* Where a word's offset counts from.  The tag words have no offset: a VLAN id, or 0 without a tag. */
enum { FLOW_FRAME, FLOW_L3, FLOW_L4, FLOW_OUTER_TAG, FLOW_INNER_TAG, FLOW_BASES };

typedef struct FlowWord {
    uint32_t mask;
    int16_t offset;
    uint8_t base;
    uint8_t fold; /* both halves are replaced by their XOR: ports of a symmetric hash */
} FlowWord;

/* The word under its mask.  Bytes behind the frame's head read as 0 and are left out of `known`. */
static inline uint32_t flow_load(const Frame *frame, const FlowWord *word, uint32_t *known)
{
    const uint8_t *head = frame->head;
    uint32_t at = (uint32_t)(int32_t)word->offset, room = frame->head_len;
    *known = 0xffffffffu;
    if (word->base >= FLOW_OUTER_TAG) {
        if (!(frame->flags & FRAME_TAGGED))
            return 0;
        if (word->base == FLOW_OUTER_TAG)
            return frame->vlan_tci & word->mask;
        return load_be16(head + frame->l2_len - 4) & word->mask;
    }
    if (word->base != FLOW_FRAME)
        at += frame->l2_len;
    if (word->base == FLOW_L4)
        at += frame->l3_len;
    if (at >= room) { /* also what would lie in front of the frame */
        *known = 0;
        return 0;
    }
    if (room - at < 4) {
        uint8_t rest[4] = {0};
        memcpy(rest, head + at, room - at);
        *known <<= 8 * (4 - (room - at));
        return load_be32(rest) & word->mask;
    }
    return load_be32(head + at) & word->mask;
}

/* What one packet type is hashed by. */
typedef struct HashInput {
    uint32_t num;
    uint32_t simple; /* the XOR of all words instead of a Toeplitz hash */
    uint64_t windows[FLOW_HASH_WORDS];
    FlowWord words[FLOW_HASH_WORDS];
} HashInput;

typedef struct HashTable {
    uint8_t input_of[FLOW_PTYPES]; /* number of an input, from 1; 0: not hashed by this table */
    HashInput inputs[];
} HashTable;

/* Hashes a parsed frame if the table has its packet type. */
static inline void flow_hash(Frame *frame, const HashTable *table)
{
    uint32_t words[FLOW_HASH_WORDS], known, fold = 0, number = table->input_of[frame->ptype];
    const HashInput *input;
    if (number == 0)
        return;
    input = &table->inputs[number - 1];
    for (uint32_t i = 0; i < input->num; i++) {
        uint32_t value = flow_load(frame, &input->words[i], &known);
        if (input->words[i].fold)
            value ^= value << 16 | value >> 16;
        words[i] = value;
        fold ^= value;
    }
    frame->hash = input->simple ? fold : toeplitz_words(words, input->windows, input->num);
    frame->flags |= FRAME_HASHED;
}

enum {
    FLOW_RULE_WORDS = 32,  /* all of a frame's head, which is all that raw rules can see */
    FLOW_RULES = 128,
    FLOW_PATTERNS = 32,
    FLOW_SLOTS = 4 * FLOW_RULES, /* every pattern has at least twice as many as rules */
};

enum { FLOW_PASS, FLOW_DROP, FLOW_QUEUE };

/* What becomes of frames in which the words of a pattern have these values. */
typedef struct FlowRule {
    uint64_t key; /* of the values: flow_mix() */
    uint32_t values[FLOW_RULE_WORDS];
    uint32_t mark;
    uint16_t queue;
    uint16_t region; /* bits of the hash that are added to the queue */
    uint8_t action;
    uint8_t marked;
    uint8_t id; /* of the counter */
} FlowRule;

/* Rules that look at the same words of the same packet types. */
typedef struct FlowPattern {
    uint64_t ptypes[FLOW_PTYPES / 64];
    uint32_t num_words;
    uint32_t slots_mask;
    uint32_t first_slot;
    FlowWord words[FLOW_RULE_WORDS];
} FlowPattern;

typedef struct FlowTable {
    uint32_t num_patterns;
    FlowPattern patterns[FLOW_PATTERNS];
    uint16_t slots[FLOW_SLOTS]; /* number of a rule, from 1; 0: empty */
    FlowRule rules[FLOW_RULES];
} FlowTable;

static inline uint64_t flow_mix(uint64_t key, uint32_t value)
{
    key = (key ^ value) * 0x9e3779b97f4a7c15u;
    return key ^ key >> 29;
}

static inline uint32_t flow_slot(uint64_t key, uint32_t mask)
{
    return (uint32_t)(key >> 32) & mask;
}

/* Number of the rule that decides on a parsed frame, from 1, or 0.  The first pattern that has one
 * wins; a frame that ends before a bit that counts matches nothing. */
static inline uint32_t flow_match(const FlowTable *table, const Frame *frame)
{
    uint32_t values[FLOW_RULE_WORDS], known;
    for (uint32_t p = 0; p < table->num_patterns; p++) {
        const FlowPattern *pattern = &table->patterns[p];
        uint64_t key = 0;
        uint32_t i;
        if (!(pattern->ptypes[frame->ptype >> 6] >> (frame->ptype & 63) & 1))
            continue;
        for (i = 0; i < pattern->num_words; i++) {
            values[i] = flow_load(frame, &pattern->words[i], &known);
            if (pattern->words[i].mask & ~known)
                break;
            key = flow_mix(key, values[i]);
        }
        if (i < pattern->num_words)
            continue;
        /* Never full: the builder leaves half of the slots empty. */
        for (i = flow_slot(key, pattern->slots_mask);; i = (i + 1) & pattern->slots_mask) {
            uint32_t number = table->slots[pattern->first_slot + i];
            const FlowRule *rule;
            if (number == 0)
                break;
            rule = &table->rules[number - 1];
            if (rule->key == key && !memcmp(rule->values, values, 4 * pattern->num_words))
                return number;
        }
    }
    return 0;
}

/* Finds the rule of a parsed and hashed frame and notes in the frame what it wants; returns the
 * rule's number, or 0. */
static inline uint32_t flow_steer(const FlowTable *table, Frame *frame)
{
    uint32_t number = flow_match(table, frame), flags, queue;
    const FlowRule *rule;
    frame->flags &= ~(uint32_t)FRAME_RULED;
    if (number == 0)
        return 0;
    rule = &table->rules[number - 1];
    flags = FRAME_MATCHED;
    if (rule->marked) {
        flags |= FRAME_MARKED;
        frame->mark = rule->mark;
    }
    if (rule->action == FLOW_QUEUE) {
        queue = rule->queue;
        if (frame->flags & FRAME_HASHED)
            queue += frame->hash & rule->region;
        flags |= FRAME_STEERED | queue << FRAME_QUEUE_SHIFT;
    }
    frame->flags |= flags;
    return number;
}

#endif
