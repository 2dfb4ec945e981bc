"""Where a burst goes: the filter of one destination, or the table of a switch of many."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from emuiavf.datapath._frame cimport Burst, Frame, FrameSink, RxFilterTable


cdef extern from "fdb.h" nogil:
    enum:
        FDB_WAYS
        FDB_BUCKETS
        FDB_MEMBER_BITS

    ctypedef struct FdbEntry:
        uint64_t key
        uint64_t seen

    ctypedef struct FdbBucket:
        FdbEntry entries[4]

    ctypedef struct Fdb:
        FdbBucket *buckets
        uint32_t lock
        uint32_t age_s
        uint64_t evicted

    uint64_t fdb_key(uint64_t mac, int vlan) noexcept
    uint32_t fdb_age(uint64_t seen, uint32_t now_s) noexcept
    int fdb_find(const Fdb *fdb, uint64_t key, uint32_t now_s) noexcept
    void fdb_learn(Fdb *fdb, uint64_t key, uint32_t member, uint32_t now_s) noexcept


cdef extern from "filter.h" nogil:
    enum:
        SWITCH_MEMBERS
        FILTER_PROMISC_UNICAST
        FILTER_PROMISC_MULTICAST
        FILTER_PRUNE_VLANS
        FILTER_PORT_VLAN
        SWITCH_VLANS
        SWITCH_UNTAGGED

    ctypedef struct RxFilterFields "RxFilterTable":
        uint64_t own
        uint32_t flags
        uint32_t slots_mask
        uint64_t vlans[192]
        uint64_t *slots

    ctypedef struct SwitchEntry:
        uint64_t mac
        uint64_t members

    ctypedef struct Switch:
        FrameSink *sinks[64]
        uint64_t all
        uint64_t unknown
        uint64_t ports
        uint64_t promisc_unicast
        uint64_t promisc_multicast
        uint64_t strips
        uint64_t *vlans
        Fdb *fdb
        uint64_t storm_ns
        uint32_t slots_mask
        uint32_t promises
        SwitchEntry *slots

    uint32_t mac_slot(uint64_t mac, uint32_t mask) noexcept
    int frame_vlan_id(const Frame *frame) noexcept
    int filter_accepts(const RxFilterTable *filter, const Frame *frame) noexcept
    bint filter_by_address(const RxFilterTable *filter) noexcept
    int filter_accepts_all(const RxFilterTable *filter, const Frame *frames, int count) noexcept
    int filter_strips(const RxFilterTable *filter) noexcept
    bint switch_treats_alike(const Switch *table, uint32_t member) noexcept
    uint64_t switch_route(const Switch *table, const Frame *frame, uint32_t member,
                          uint32_t now_s, uint32_t *flood) noexcept


cdef extern from "guard.h" nogil:
    enum:
        GUARD_MAC
        GUARD_VLAN
        GUARD_PORT
        GUARD_INNER

    ctypedef struct Guard:
        const RxFilterTable *own
        uint32_t flags
        uint8_t tag[4]

    uint32_t guard_take(const Guard *guard, Burst *burst, int count) noexcept
    void guard_done(const Guard *guard, Burst *burst, int count) noexcept
    uint32_t put_untagged(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept


# A filter table for what a member with this emudev.info.RxFilter and policy.VfPolicy (or None)
# receives, to be freed with free(); raises MemoryError.
cdef RxFilterTable *filter_build(object rx_filter, object policy) except NULL


cdef class GuardTable:
    """Owner of a Guard; immutable."""
    cdef Guard guard


cdef class Learned:
    """What a switch has learned of its ports; workers write it."""
    cdef Fdb fdb
    cdef void *memory


# The table of a switch; `members` are (Endpoint or None, ...) in the order of their numbers.
cdef Switch *switch_build(list members, Learned learned, uint64_t storm_ns) except NULL
cdef void switch_free(Switch *table) noexcept
