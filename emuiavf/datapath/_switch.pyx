"""Builders of the immutable tables of include/filter.h, and a test surface over them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from emuiavf.datapath._endpoint cimport Endpoint
from emuiavf.datapath._frame cimport FRAME_BROADCAST, FRAME_MULTICAST, Frame, RxFilterTable

cdef uint64_t BROADCAST = 0xFFFFFFFFFFFF
MAX_MEMBERS = SWITCH_MEMBERS


cdef uint64_t mac_number(bytes mac) except? 0:
    if len(mac) != 6:
        raise ValueError(f"a MAC address has 6 bytes, not {len(mac)}")
    return int.from_bytes(mac, "little")


cdef uint32_t slots_for(Py_ssize_t count) noexcept:
    """A power of two that stays at least half empty: every search ends at an empty slot."""
    cdef uint32_t slots = 4
    while slots < 2 * count + 2:
        slots *= 2
    return slots


cdef RxFilterTable *filter_build(object rx_filter) except NULL:
    cdef list macs = sorted(mac_number(mac) for mac in rx_filter.macs)
    cdef uint32_t slots = slots_for(len(macs))
    cdef RxFilterFields *table = <RxFilterFields *>calloc(
        1, sizeof(RxFilterFields) + slots * sizeof(uint64_t))
    cdef uint64_t *into
    cdef uint64_t mac
    cdef uint32_t at
    if table == NULL:
        raise MemoryError
    into = <uint64_t *>(<uint8_t *>table + sizeof(RxFilterFields))
    if rx_filter.promisc_unicast:
        table.flags |= FILTER_PROMISC_UNICAST
    if rx_filter.promisc_multicast:
        table.flags |= FILTER_PROMISC_MULTICAST
    if rx_filter.vlans is not None:
        table.flags |= FILTER_PRUNE_VLANS
        for vlan in rx_filter.vlans:
            table.vlans[(vlan & 0xFFF) >> 6] |= <uint64_t>1 << (vlan & 63)
    # The group bit is the lowest of the first byte: the first unicast address is the own one.  With
    # none, all ones: broadcast passes anyway.
    table.own = next((m for m in macs if not m & 1), BROADCAST)
    if macs:
        table.slots_mask = slots - 1
        for number in macs:
            mac = number
            at = mac_slot(mac, table.slots_mask)
            while into[at] != 0:
                at = (at + 1) & table.slots_mask
            into[at] = mac
    return <RxFilterTable *>table


cdef Switch *switch_build(list members) except NULL:
    cdef dict homes = {}
    cdef Switch *table
    cdef SwitchEntry *into
    cdef Endpoint endpoint
    cdef uint32_t slots, at, vlan
    cdef uint64_t bit, mac, unpruned = 0
    cdef bint prune = False
    if len(members) > SWITCH_MEMBERS:
        raise ValueError(f"a switch has at most {SWITCH_MEMBERS} members, not {len(members)}")
    for number, endpoint in enumerate(members):
        if endpoint.rx_filter is not None and endpoint.sink != NULL:
            for text in endpoint.rx_filter.macs:
                homes[mac_number(text)] = homes.get(mac_number(text), 0) | (1 << number)
            prune = prune or endpoint.rx_filter.vlans is not None
    slots = slots_for(len(homes))
    table = <Switch *>calloc(1, sizeof(Switch) + slots * sizeof(SwitchEntry))
    if table == NULL:
        raise MemoryError
    if prune:
        table.vlans = <uint64_t *>calloc(4096, sizeof(uint64_t))
        if table.vlans == NULL:
            free(table)
            raise MemoryError
    table.slots_mask = slots - 1
    for number, endpoint in enumerate(members):
        if endpoint.sink == NULL:
            continue
        bit = <uint64_t>1 << <uint32_t>number
        table.sinks[<uint32_t>number] = endpoint.sink
        table.all |= bit
        wishes = endpoint.rx_filter
        if wishes is None:
            table.unknown |= bit
            table.promisc_multicast |= bit
        else:
            if wishes.promisc_unicast:
                table.promisc_unicast |= bit
            if wishes.promisc_multicast:
                table.promisc_multicast |= bit
        if wishes is None or wishes.vlans is None:
            unpruned |= bit
        else:
            for vlan in wishes.vlans:
                table.vlans[vlan & 0xFFF] |= bit
    if prune:
        for vlan in range(4096):
            table.vlans[vlan] |= unpruned
    into = <SwitchEntry *>(<uint8_t *>table + sizeof(Switch))
    for number, home in homes.items():
        mac = number
        at = mac_slot(mac, table.slots_mask)
        while into[at].mac != 0:
            at = (at + 1) & table.slots_mask
        into[at].mac = mac
        into[at].members = home
    return table


cdef void switch_free(Switch *table) noexcept:
    if table != NULL:
        free(table.vlans)
        free(table)


cdef void _frame_of(Frame *frame, bytes data, uint8_t *head):
    memcpy(head, <const uint8_t *>data, min(len(data), 128))
    frame.head = head
    frame.head_len = <uint16_t>min(len(data), 128)
    frame.dst_mac = int.from_bytes(data[:6], "little")
    frame.flags = (FRAME_MULTICAST if data[0] & 1 else 0) | (
        FRAME_MULTICAST | FRAME_BROADCAST if data[:6] == b"\xff" * 6 else 0)


def accepts(object rx_filter, bytes data) -> bool:
    """Would a member with this filter receive the frame `data`?"""
    cdef Frame frame
    cdef uint8_t head[128]
    cdef RxFilterTable *table
    _frame_of(&frame, data, head)
    table = filter_build(rx_filter)
    try:
        return bool(filter_accepts(table, &frame))
    finally:
        free(table)


def routes(list members, uint32_t member, bytes data) -> list[int]:
    """Numbers of the members that a switch sends `data` to when member number `member` sent it."""
    cdef Frame frame
    cdef uint8_t head[128]
    cdef uint64_t to
    cdef Switch *table
    if member >= len(members):
        raise ValueError("no such member")
    _frame_of(&frame, data, head)
    table = switch_build(members)
    try:
        to = switch_route(table, &frame, member)
        return [i for i in range(len(members)) if to >> <uint32_t>i & 1]
    finally:
        switch_free(table)
