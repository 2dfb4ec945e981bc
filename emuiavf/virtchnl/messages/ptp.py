"""The PTP clock: what a VF may do with it, and its time."""

from typing import Annotated

from emuiavf.layout import Wire, wire


@wire(size=48)
class PtpCaps(Wire):
    """1588_PTP_GET_CAPS, both ways; bits of `PtpCap`.

    There are two layouts of one length, and nothing tells which one is spoken: Linux has the bits
    at the beginning (`caps`), DPDK and Intel's own drivers have them behind 24 bytes about
    registers of the clock (`caps_behind`).  Each has something else where the other has them.
    """

    caps: Annotated[int, "I20x"] = 0
    caps_behind: Annotated[int, "I20x"] = 0


@wire(size=16)
class PhcTime(Wire):
    """1588_PTP_GET_TIME, both ways: nanoseconds since 1970."""

    time: Annotated[int, "Q8x"] = 0
