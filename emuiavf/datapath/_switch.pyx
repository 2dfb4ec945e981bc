"""Builders of the tables of include/filter.h, guard.h and fdb.h, and a test surface over them."""

from dataclasses import replace

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from emuiavf._atomic cimport (
    load_acquire_u64, load_relaxed_u64, spin_lock, spin_unlock, store_release_u64,
)
from emuiavf.datapath._endpoint cimport Endpoint
from emuiavf.datapath._frame cimport (
    FRAME_BROADCAST, FRAME_BROADCAST_MAC, FRAME_MULTICAST, Frame, RxFilterTable,
)

from emuiavf.emudev.info import RxFilter, vlan_tag
from emuiavf.policy import TPID_8021Q

MAX_MEMBERS = SWITCH_MEMBERS
FDB_PLACES = FDB_BUCKETS * FDB_WAYS


cdef uint64_t mac_number(bytes mac) except? 0:
    if len(mac) != 6:
        raise ValueError(f"a MAC address has 6 bytes, not {len(mac)}")
    return int.from_bytes(mac, "little")


cdef uint32_t vlan_slot(uint32_t tag) noexcept:
    """The index (frame_vlan) of a VLAN of RxFilter: see info.vlan_tag()."""
    cdef uint32_t tpid = tag >> 16
    return (tag & 0xFFF) + (4096 if tpid == 0x88A8 else 8192 if tpid == 0x9100 else 0)


cdef uint32_t slots_for(Py_ssize_t count) noexcept:
    """A power of two that stays at least half empty: every search ends at an empty slot."""
    cdef uint32_t slots = 4
    while slots < 2 * count + 2:
        slots *= 2
    return slots


cdef object allowed(object rx_filter, object policy):
    """What of an RxFilter the host lets take effect: see set_policy of the engine."""
    if policy is None:
        return rx_filter
    if not policy.trust:
        rx_filter = replace(rx_filter, promisc_unicast=False, promisc_multicast=False)
    if policy.mac_locked:
        macs = frozenset(mac for mac in rx_filter.macs if mac[0] & 1 or mac == policy.mac)
        rx_filter = replace(rx_filter, macs=macs)
    if policy.port_vlan:
        port = vlan_tag(policy.port_vlan, policy.port_tpid)
        rx_filter = replace(rx_filter, vlans=frozenset({port}))
    return rx_filter


cdef RxFilterTable *filter_build(object rx_filter, object policy) except NULL:
    rx_filter = allowed(rx_filter, policy)
    port_vlan = policy is not None and policy.port_vlan
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
    if port_vlan:
        table.flags |= FILTER_PORT_VLAN
    # A promiscuous member gets all VLANs; one behind a port VLAN is promiscuous within it.
    if rx_filter.vlans is not None and (port_vlan or not rx_filter.promisc_unicast):
        table.flags |= FILTER_PRUNE_VLANS
        for vlan in rx_filter.vlans:
            at = vlan_slot(vlan)
            table.vlans[at >> 6] |= <uint64_t>1 << (at & 63)
    # The group bit is the lowest of the first byte: the first unicast address is the own one.  With
    # none, all ones: broadcast passes anyway.
    table.own = next((m for m in macs if not m & 1), FRAME_BROADCAST_MAC)
    if macs:
        table.slots_mask = slots - 1
        for number in macs:
            mac = number
            at = mac_slot(mac, table.slots_mask)
            while into[at] != 0:
                at = (at + 1) & table.slots_mask
            into[at] = mac
    return <RxFilterTable *>table


cdef class GuardTable:
    def __init__(self, rx_filter, policy):
        """`rx_filter`: None is a member that has asked for nothing yet."""
        wishes = allowed(rx_filter or RxFilter(), policy)
        if policy.spoofchk:
            # As in ice: a VF without VLAN filters may send in every VLAN.
            self.guard.flags = GUARD_MAC if wishes.vlans is None else GUARD_MAC | GUARD_VLAN
            macs = frozenset(mac for mac in wishes.macs if not mac[0] & 1)
            self.guard.own = filter_build(RxFilter(macs, vlans=wishes.vlans), None)
        if policy.port_vlan:
            self.guard.flags |= GUARD_PORT
            if policy.port_tpid != TPID_8021Q:
                self.guard.flags |= GUARD_INNER
            tag = policy.port_tpid << 16 | policy.port_qos << 13 | policy.port_vlan
            for i, byte in enumerate(tag.to_bytes(4, "big")):
                self.guard.tag[<int>i] = byte

    def __dealloc__(self):
        free(<void *>self.guard.own)


def is_way_out(Endpoint endpoint) -> bool:
    """Is it a port that frames for addresses of nobody here can go to?"""
    return endpoint.rx_filter is None and endpoint.policy is None and endpoint.sink != NULL


def addresses_of(Endpoint endpoint) -> list[bytes]:
    """The addresses that a switch gives this member frames for, whatever was learned; in order."""
    if endpoint.sink == NULL or endpoint.rx_filter is None:
        return []
    return sorted(allowed(endpoint.rx_filter, endpoint.policy).macs)


def is_promised(Endpoint endpoint) -> bool:
    """Has the host promised what it sends a share (min-rate)?"""
    return (endpoint.promise != NULL and endpoint.policy is not None
            and endpoint.policy.min_rate > 0)


def guard_of(endpoint) -> GuardTable | None:
    """What the host imposes on what this Endpoint sends; None: nothing."""
    policy = endpoint.policy
    if policy is None or not (policy.spoofchk or policy.port_vlan):
        return None
    return GuardTable(endpoint.rx_filter, policy)


cdef class Learned:
    """Addresses behind the ports of a switch: at most 262,144, for `age_s` seconds after the last
    frame from each.  Workers learn and look while these methods are called."""

    def __cinit__(self, uint32_t age_s):
        self.fdb.age_s = age_s
        # calloc: of the 4 MiB only the pages that are used exist.
        self.memory = calloc(FDB_BUCKETS + 1, sizeof(FdbBucket))
        if self.memory == NULL:
            raise MemoryError
        self.fdb.buckets = <FdbBucket *>((<size_t>self.memory + 63) & ~<size_t>63)

    def __dealloc__(self):
        free(self.memory)

    def learn(self, bytes mac, int vlan, uint32_t member, uint32_t now_s) -> None:
        """The address was seen at a member; `vlan` 0 for none.  ValueError for a group."""
        cdef uint64_t key = fdb_key(mac_number(mac), vlan)
        if mac[0] & 1 or not any(mac) or member >= SWITCH_MEMBERS:
            raise ValueError(f"{mac.hex(':')} at member {member} is no station")
        fdb_learn(&self.fdb, key, member, now_s)

    def find(self, bytes mac, int vlan, uint32_t now_s) -> int | None:
        """The member that the address is behind."""
        cdef int member = fdb_find(&self.fdb, fdb_key(mac_number(mac), vlan), now_s)
        return member if member >= 0 else None

    def forget(self, uint32_t member) -> None:
        """Nothing is behind this member any more; no worker may be learning of it."""
        cdef FdbEntry *entry
        cdef int i
        with nogil:
            spin_lock(&self.fdb.lock)
            for i in range(FDB_BUCKETS * FDB_WAYS):
                entry = &self.fdb.buckets[i // FDB_WAYS].entries[i % FDB_WAYS]
                if entry.key and entry.seen & ((1 << FDB_MEMBER_BITS) - 1) == member:
                    store_release_u64(&entry.key, 0)
            spin_unlock(&self.fdb.lock)

    def entries(self, uint32_t now_s) -> list[tuple[bytes, int, int, int]]:
        """(address, VLAN or 0, member, seconds since it was seen) of all that are known."""
        return self.page(now_s, 0, FDB_PLACES)[0]

    def page(self, uint32_t now_s, int start,
             int most) -> tuple[list[tuple[bytes, int, int, int]], int]:
        """At most `most` of `entries` from place `start` of the table on, and the place to go on
        from, 0 at its end."""
        cdef uint64_t key, seen
        cdef uint32_t age
        cdef int i, num = 0
        found = []
        for i in range(start, FDB_BUCKETS * FDB_WAYS):
            key = load_acquire_u64(&self.fdb.buckets[i // FDB_WAYS].entries[i % FDB_WAYS].key)
            seen = load_acquire_u64(&self.fdb.buckets[i // FDB_WAYS].entries[i % FDB_WAYS].seen)
            age = fdb_age(seen, now_s)
            if key == 0 or age > self.fdb.age_s:
                continue
            if num == most:
                return found, i
            num += 1
            mac = int(key & FRAME_BROADCAST_MAC).to_bytes(6, "little")
            member = seen & ((1 << FDB_MEMBER_BITS) - 1)
            found.append((mac, int(key >> 48), int(member), int(age)))
        return found, 0

    def count(self, uint32_t now_s) -> int:
        """How many `entries` there are."""
        cdef FdbEntry *entry
        cdef int i, num = 0
        with nogil:
            for i in range(FDB_BUCKETS * FDB_WAYS):
                entry = &self.fdb.buckets[i // FDB_WAYS].entries[i % FDB_WAYS]
                if (load_relaxed_u64(&entry.key) != 0
                        and fdb_age(load_relaxed_u64(&entry.seen), now_s) <= self.fdb.age_s):
                    num += 1
        return num

    @property
    def evicted(self) -> int:
        """Addresses that had to make room before they were old."""
        return load_relaxed_u64(&self.fdb.evicted)


cdef Switch *switch_build(list members, Learned learned, uint64_t storm_ns) except NULL:
    cdef dict homes = {}
    cdef dict wanted = {}
    cdef Switch *table
    cdef SwitchEntry *into
    cdef Endpoint endpoint
    cdef uint32_t slots, at
    cdef int vlan
    cdef uint64_t bit, mac, address, unpruned = 0, ports = 0
    cdef bint prune = False, table_promises = False
    if len(members) > SWITCH_MEMBERS:
        raise ValueError(f"a switch has at most {SWITCH_MEMBERS} members, not {len(members)}")
    for number, endpoint in enumerate(members):
        if endpoint is None:
            continue
        wishes = endpoint.rx_filter
        if wishes is None and endpoint.policy is not None:
            wishes = RxFilter()
        if is_promised(endpoint):
            table_promises = True
        if wishes is None:
            ports |= <uint64_t>1 << <uint32_t>number
        if endpoint.sink == NULL:
            continue
        if wishes is not None:
            wishes = allowed(wishes, endpoint.policy)
            for mac_bytes in wishes.macs:
                address = mac_number(mac_bytes)
                homes[address] = homes.get(address, 0) | (1 << number)
            prune = prune or wishes.vlans is not None
        wanted[number] = wishes
    slots = slots_for(len(homes))
    table = <Switch *>calloc(1, sizeof(Switch) + slots * sizeof(SwitchEntry))
    if table == NULL:
        raise MemoryError
    if prune:
        table.vlans = <uint64_t *>calloc(SWITCH_VLANS + 1, sizeof(uint64_t))
        if table.vlans == NULL:
            free(table)
            raise MemoryError
    table.slots_mask = slots - 1
    table.ports = ports
    table.storm_ns = storm_ns
    table.promises = table_promises
    if learned is not None:
        table.fdb = &learned.fdb
    for number, wishes in wanted.items():
        endpoint = members[number]
        policy = endpoint.policy
        port_vlan = policy is not None and policy.port_vlan
        bit = <uint64_t>1 << <uint32_t>number
        table.sinks[<uint32_t>number] = endpoint.sink
        table.all |= bit
        if port_vlan:
            table.strips |= bit
        if wishes is None:
            table.unknown |= bit
            table.promisc_multicast |= bit
        else:
            if wishes.promisc_unicast:
                table.promisc_unicast |= bit
            if wishes.promisc_multicast:
                table.promisc_multicast |= bit
        if not port_vlan and (wishes is None or wishes.vlans is None or wishes.promisc_unicast):
            unpruned |= bit
        else:
            for tag in wishes.vlans:
                table.vlans[vlan_slot(tag)] |= bit
    if prune:
        for vlan in range(SWITCH_VLANS):
            table.vlans[vlan] |= unpruned
        table.vlans[SWITCH_UNTAGGED] = table.all & ~table.strips
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


def accepts(object rx_filter, bytes data, policy=None) -> bool:
    """Would a member with this filter and this VfPolicy receive the frame `data`?"""
    cdef Frame frame
    cdef uint8_t head[128]
    cdef RxFilterTable *table
    _frame_of(&frame, data, head)
    table = filter_build(rx_filter, policy)
    try:
        return bool(filter_accepts(table, &frame))
    finally:
        free(table)


def routes(list members, uint32_t member, bytes data, Learned learned=None,
           uint32_t now_s=0) -> list[int]:
    """Numbers of the members that a switch sends `data` to when member number `member` sent it."""
    cdef Frame frame
    cdef uint8_t head[128]
    cdef uint64_t to
    cdef uint32_t flood = 0
    cdef Switch *table
    if member >= len(members):
        raise ValueError("no such member")
    _frame_of(&frame, data, head)
    table = switch_build(members, learned, 0)
    try:
        to = switch_route(table, &frame, member, now_s, &flood)
        return [i for i in range(len(members)) if to >> <uint32_t>i & 1]
    finally:
        switch_free(table)
