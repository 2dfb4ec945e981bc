"""Hashing and steering of frames by fields that a guest has chosen (include/flow.h)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int16_t
from emuiavf.datapath._frame cimport Burst, Frame


cdef extern from "flow.h" nogil:
    enum:
        FLOW_HASH_WORDS
        FLOW_PTYPES
        FLOW_BASES
        FLOW_RULE_WORDS
        FLOW_RULES
        FLOW_PATTERNS
        FLOW_DROP

    ctypedef struct FlowWord:
        uint32_t mask
        int16_t offset
        uint8_t base
        uint8_t fold

    ctypedef struct HashInput:
        uint32_t num
        uint32_t simple
        uint64_t *windows
        FlowWord *words

    ctypedef struct HashTable:
        uint8_t *input_of
        HashInput *inputs

    ctypedef struct FlowRule:
        uint64_t key
        uint32_t *values
        uint32_t mark
        uint16_t queue
        uint16_t region
        uint8_t action
        uint8_t marked
        uint8_t id

    ctypedef struct FlowPattern:
        uint64_t *ptypes
        uint32_t num_words
        uint32_t slots_mask
        uint32_t first_slot
        FlowWord *words

    ctypedef struct FlowTable:
        uint32_t num_patterns
        FlowPattern *patterns
        uint16_t *slots
        FlowRule *rules

    uint64_t flow_mix(uint64_t key, uint32_t value) noexcept
    uint32_t flow_slot(uint64_t key, uint32_t mask) noexcept
    uint32_t flow_steer(const FlowTable *table, Frame *frame) noexcept
    void flow_hash(Frame *frame, const HashTable *table) noexcept


# The table of emudev.info.RssConfig.inputs, to be freed with free(); NULL when there are none.
cdef HashTable *hash_build(object rss) except? NULL

# Hashes those parsed frames of `mask` whose packet type the table has.
cdef void burst_hash(Burst *burst, uint32_t mask, const HashTable *table) noexcept nogil

# The table of (emudev.info.FlowRule, ...), to be freed with free(); NULL when there are none.
cdef FlowTable *flow_build(object rules) except? NULL

# Notes in each parsed and hashed frame of `mask` what its rule wants (FRAME_RULED), and the number
# of that rule in `numbers`.  Returns the frames that are to be dropped.
cdef uint32_t burst_steer(Burst *burst, uint32_t mask, const FlowTable *table,
                          uint16_t *numbers) noexcept nogil

# Counts the rules of those frames.
cdef void burst_count(const FlowTable *table, uint32_t mask, const uint16_t *numbers,
                      uint64_t *hits) noexcept nogil
