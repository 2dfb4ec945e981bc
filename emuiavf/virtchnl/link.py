"""Bodies of the events that the PF sends on its own: link state and the notice of a reset."""

from emuiavf.policy import LinkPolicy
from emuiavf.virtchnl.messages import PfEvent
from emuiavf.virtchnl.ops import Cap, EventCode, LinkSpeed, Severity
from emuiavf.virtchnl.state import Vf

_SPEED_CODES = (
    (100, LinkSpeed.MBPS_100),
    (1_000, LinkSpeed.MBPS_1000),
    (2_500, LinkSpeed.MBPS_2500),
    (5_000, LinkSpeed.MBPS_5000),
    (10_000, LinkSpeed.MBPS_10000),
    (20_000, LinkSpeed.MBPS_20000),
    (25_000, LinkSpeed.MBPS_25000),
    (40_000, LinkSpeed.MBPS_40000),
)


def is_link_up(vf: Vf) -> bool:
    """The port's link as the host lets the VF see it."""
    if vf.link_cut:
        return False
    if vf.policy.link_state is LinkPolicy.AUTO:
        return vf.link.up
    return vf.policy.link_state is LinkPolicy.ENABLE


def link_change(vf: Vf) -> bytes:
    """EVENT LINK_CHANGE with the present state; the speed of a link that is down is 0."""
    up = is_link_up(vf)
    speed = vf.link.speed_mbps if up else 0
    if not vf.config.caps & Cap.ADV_LINK_SPEED:
        speed = _speed_code(speed)
    return PfEvent(EventCode.LINK_CHANGE, speed, int(up), Severity.INFO).encode()


def reset_impending() -> bytes:
    """EVENT RESET_IMPENDING."""
    return PfEvent(EventCode.RESET_IMPENDING, 0, 0, Severity.CERTAIN_DOOM).encode()


def _speed_code(speed_mbps: int) -> LinkSpeed:
    """The fastest code that does not exceed the speed (100 Gb/s has none and becomes 40)."""
    code = LinkSpeed.UNKNOWN
    for mbps, candidate in _SPEED_CODES:
        if mbps <= speed_mbps:
            code = candidate
    return code
