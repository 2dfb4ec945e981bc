"""PTP: 1588_PTP_GET_CAPS and 1588_PTP_GET_TIME.  The clock can be read, and frames have its time.

It can be neither set nor trimmed, and what is sent is not stamped: ice offers a VF no more.
"""

from emuiavf.virtchnl.messages import PhcTime, PtpCaps
from emuiavf.virtchnl.ops import Cap, PtpCap
from emuiavf.virtchnl.state import Vf

OFFERED = PtpCap.RX_TSTAMP | PtpCap.READ_PHC


def on_ptp_get_caps(vf: Vf, msg: PtpCaps) -> bytes:
    """1588_PTP_GET_CAPS: what is wanted and can be had, at both places where drivers look.

    The request of DPDK is garbage where Linux has its bits (trap 35), so nothing beyond
    `OFFERED` may follow from it.  Legacy descriptors have no room for a time.
    """
    granted = OFFERED & PtpCap(msg.caps | msg.caps_behind)
    if Cap.RX_FLEX_DESC not in vf.config.caps:
        granted &= ~PtpCap.RX_TSTAMP
    return PtpCaps(granted, granted).encode()


def on_ptp_get_time(vf: Vf, msg: PhcTime) -> bytes:
    """1588_PTP_GET_TIME: the time now, by the clock that stamps received frames."""
    return PhcTime(vf.datapath.phc_ns()).encode()
