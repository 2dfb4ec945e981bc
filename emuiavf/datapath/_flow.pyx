"""Tables of include/flow.h: built by control, used by workers."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from emuiavf._atomic cimport add_relaxed_u64
from emuiavf._bits cimport lowest_bit
from emuiavf.datapath._frame cimport Burst
from emuiavf.datapath._toeplitz cimport TOEPLITZ_WINDOWS, toeplitz_window


cdef int word_build(FlowWord *made, object word) except -1:
    if not 0 <= word.base < FLOW_BASES:
        raise ValueError(f"base {word.base} of a word")
    made.base = word.base
    made.offset = word.offset
    made.mask = word.mask
    return 0


cdef int input_build(HashInput *made, object chosen, const uint8_t *key, bint simple) except -1:
    """Words in their order; a pair of them meets the XOR of both windows, one with itself folds."""
    cdef uint64_t window
    cdef uint32_t i, a, b
    cdef uint32_t num = len(chosen.words)
    if num > FLOW_HASH_WORDS:
        raise ValueError(f"{num} words to hash, at most {FLOW_HASH_WORDS}")
    made.num = num
    made.simple = simple
    for i in range(num):
        word_build(&made.words[i], chosen.words[i])
        made.windows[i] = toeplitz_window(key, i % TOEPLITZ_WINDOWS)
    for a, b in chosen.pairs:
        if a >= num or b >= num:
            raise ValueError(f"pair {a}, {b} of {num} words")
        if a == b:
            made.words[a].fold = 1
        else:
            window = made.windows[a] ^ made.windows[b]
            made.windows[a] = made.windows[b] = window
    return 0


cdef HashTable *hash_build(object rss) except? NULL:
    cdef bytes key = rss.key
    cdef HashTable *table
    cdef dict numbers = {}
    if not rss.inputs:
        return NULL
    if len(key) < 52:
        raise ValueError(f"RSS key of {len(key)} bytes, needs 52")
    for ptype, chosen in rss.inputs.items():
        if not 0 <= ptype < FLOW_PTYPES:
            raise ValueError(f"packet type {ptype}")
        numbers.setdefault(chosen, len(numbers) + 1)
    table = <HashTable *>calloc(1, sizeof(HashTable) + len(numbers) * sizeof(HashInput))
    if table == NULL:
        raise MemoryError
    try:
        for chosen, number in numbers.items():
            input_build(&table.inputs[<int>number - 1], chosen, <const uint8_t *>key, rss.xor)
    except BaseException:
        free(table)
        raise
    for ptype, chosen in rss.inputs.items():
        table.input_of[<int>ptype] = numbers[chosen]
    return table


cdef void burst_hash(Burst *burst, uint32_t mask, const HashTable *table) noexcept nogil:
    """See _flow.pxd."""
    while mask:
        flow_hash(&burst.frames[lowest_bit(mask)], table)
        mask &= mask - 1


cdef int pattern_build(FlowTable *table, uint32_t number, uint32_t first_slot, list rules,
                       dict order) except -1:
    """One pattern, its rules' slots from `first_slot` on; returns how many it has."""
    cdef FlowPattern *pattern = &table.patterns[number]
    cdef uint32_t slots = 1, i, n
    cdef FlowRule *rule
    words, ptypes = rules[0].words, rules[0].ptypes
    if len(words) > FLOW_RULE_WORDS:
        raise ValueError(f"{len(words)} words to compare, at most {FLOW_RULE_WORDS}")
    while slots < 2 * <uint32_t>len(rules):
        slots *= 2
    pattern.num_words = len(words)
    pattern.first_slot = first_slot
    pattern.slots_mask = slots - 1
    for i in range(pattern.num_words):
        word_build(&pattern.words[i], words[i])
    for ptype in range(FLOW_PTYPES) if ptypes is None else ptypes:
        pattern.ptypes[<int>ptype >> 6] |= <uint64_t>1 << (<int>ptype & 63)
    for made in rules:
        n = order[made.id]
        rule = &table.rules[n]
        rule.key = 0
        for i in range(pattern.num_words):
            rule.values[i] = made.values[i]
            rule.key = flow_mix(rule.key, rule.values[i])
        rule.action = made.action
        rule.queue = made.queue
        rule.region = (1 << made.region) - 1
        rule.marked = made.mark is not None
        rule.mark = made.mark or 0
        rule.id = made.id
        i = flow_slot(rule.key, pattern.slots_mask)
        while table.slots[first_slot + i]:
            i = (i + 1) & pattern.slots_mask
        table.slots[first_slot + i] = n + 1
    return slots


cdef FlowTable *flow_build(object rules) except? NULL:
    """Patterns stand in the order of their first rules."""
    cdef FlowTable *table
    cdef uint32_t first_slot = 0
    cdef dict patterns = {}, order = {}
    if not rules:
        return NULL
    for n, rule in enumerate(rules):
        if not 0 <= rule.id < FLOW_RULES:
            raise ValueError(f"rule {rule.id}: 0 to {FLOW_RULES - 1}")
        order[rule.id] = n
        patterns.setdefault((rule.ptypes, rule.words), []).append(rule)
    if len(order) < len(rules) or len(patterns) > FLOW_PATTERNS:
        raise ValueError(f"{len(rules)} rules, {len(order)} ids, {len(patterns)} patterns")
    table = <FlowTable *>calloc(1, sizeof(FlowTable))
    if table == NULL:
        raise MemoryError
    try:
        for n, like in enumerate(patterns.values()):
            first_slot += pattern_build(table, n, first_slot, like, order)
        table.num_patterns = len(patterns)
    except BaseException:
        free(table)
        raise
    return table


cdef uint32_t burst_steer(Burst *burst, uint32_t mask, const FlowTable *table,
                          uint16_t *numbers) noexcept nogil:
    """See _flow.pxd."""
    cdef uint32_t dropped = 0, number
    cdef int i
    while mask:
        i = lowest_bit(mask)
        mask &= mask - 1
        number = flow_steer(table, &burst.frames[i])
        numbers[i] = <uint16_t>number
        if number and table.rules[number - 1].action == FLOW_DROP:
            dropped |= <uint32_t>1 << i
    return dropped


cdef void burst_count(const FlowTable *table, uint32_t mask, const uint16_t *numbers,
                      uint64_t *hits) noexcept nogil:
    """See _flow.pxd."""
    cdef uint32_t number
    while mask:
        number = numbers[lowest_bit(mask)]
        mask &= mask - 1
        if number:
            add_relaxed_u64(&hits[table.rules[number - 1].id], 1)
