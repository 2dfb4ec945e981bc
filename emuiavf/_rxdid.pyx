"""The formats of the Rx writeback that are served, numbered as in include/writeback.h."""

from enum import IntEnum


cdef extern from "writeback.h":
    enum:
        RXDID_LEGACY
        RXDID_FLEX_NIC
        RXDID_FLEX_GENERIC
        RXDID_FLEX_VLAN
        RXDID_FLEX_IPV4
        RXDID_FLEX_IPV6
        RXDID_FLEX_IPV6_FLOW
        RXDID_FLEX_TCP
        RXDID_FLEX_OVS
        RXDID_FLEX_IP_OFFSET
        RXDID_EXTRACTING


class Rxdid(IntEnum):
    """All of them, and no other."""

    LEGACY = RXDID_LEGACY
    FLEX_NIC = RXDID_FLEX_NIC
    FLEX_GENERIC = RXDID_FLEX_GENERIC
    FLEX_VLAN = RXDID_FLEX_VLAN
    FLEX_IPV4 = RXDID_FLEX_IPV4
    FLEX_IPV6 = RXDID_FLEX_IPV6
    FLEX_IPV6_FLOW = RXDID_FLEX_IPV6_FLOW
    FLEX_TCP = RXDID_FLEX_TCP
    FLEX_OVS = RXDID_FLEX_OVS
    FLEX_IP_OFFSET = RXDID_FLEX_IP_OFFSET

    @property
    def extracts(self):
        """Whether a descriptor has words of the frame's headers."""
        return bool(<unsigned>RXDID_EXTRACTING >> self.value & 1)
