"""The formats of the Rx writeback that are served, numbered as in include/writeback.h."""

from enum import IntEnum


cdef extern from "writeback.h":
    enum:
        RXDID_LEGACY
        RXDID_FLEX_NIC
        RXDID_FLEX_OVS


class Rxdid(IntEnum):
    """All of them, and no other."""

    LEGACY = RXDID_LEGACY
    FLEX_NIC = RXDID_FLEX_NIC
    FLEX_OVS = RXDID_FLEX_OVS
