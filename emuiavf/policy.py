"""What the host decided about one VF, in the words of `ip link set ... vf`."""

from dataclasses import dataclass
from enum import Enum

MAX_MTU = 9702
MTU_OVERHEAD = 26
"""A frame without FCS minus its MTU, as ice and the drivers reckon it: header and two tags."""

TPID_8021Q = 0x8100
TPID_8021AD = 0x88A8


class LinkPolicy(Enum):
    """`state` of `ip link set ... vf`: follow the port, or override it."""

    AUTO = "auto"
    ENABLE = "enable"
    DISABLE = "disable"


@dataclass(frozen=True)
class VfPolicy:
    """The host's side of a VF; rates in Mb/s, 0 = none; `port_vlan` 0 = none.

    `mac` of all zeros lets the guest's driver choose an address.  `mac_locked` keeps the guest to
    `mac`.  A VF without `trust` cannot become promiscuous and gets few filters.  `port_qos` and
    `port_tpid` are the priority and the TPID of the port VLAN's tag.  `mtu` is the largest that
    the guest may have.
    """

    mac: bytes = bytes(6)
    mac_locked: bool = False
    port_vlan: int = 0
    port_qos: int = 0
    port_tpid: int = TPID_8021Q
    trust: bool = True
    spoofchk: bool = False
    link_state: LinkPolicy = LinkPolicy.AUTO
    min_rate: int = 0
    max_rate: int = 0
    mtu: int = MAX_MTU
