"""Where a burst goes: the filter of one destination, or the table of a switch of many."""

from libc.stdint cimport uint32_t, uint64_t
from emuiavf.datapath._frame cimport Burst, Frame, FrameSink, RxFilterTable


cdef extern from "filter.h" nogil:
    enum:
        SWITCH_MEMBERS
        FILTER_PROMISC_UNICAST
        FILTER_PROMISC_MULTICAST
        FILTER_PRUNE_VLANS

    ctypedef struct RxFilterFields "RxFilterTable":
        uint64_t own
        uint32_t flags
        uint32_t slots_mask
        uint64_t vlans[64]
        uint64_t *slots

    ctypedef struct SwitchEntry:
        uint64_t mac
        uint64_t members

    ctypedef struct Switch:
        FrameSink *sinks[64]
        uint64_t all
        uint64_t unknown
        uint64_t promisc_unicast
        uint64_t promisc_multicast
        uint64_t *vlans
        uint32_t slots_mask
        SwitchEntry *slots

    uint32_t mac_slot(uint64_t mac, uint32_t mask) noexcept
    int frame_vlan_id(const Frame *frame) noexcept
    int filter_accepts(const RxFilterTable *filter, const Frame *frame) noexcept
    uint64_t switch_route(const Switch *table, const Frame *frame, uint32_t member) noexcept


# A filter table for emudev.info.RxFilter, to be freed with free(); raises MemoryError.
cdef RxFilterTable *filter_build(object rx_filter) except NULL

# The table of a switch; `members` are (Endpoint, ...) in the order of their numbers.
cdef Switch *switch_build(list members) except NULL
cdef void switch_free(Switch *table) noexcept
