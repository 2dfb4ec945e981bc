"""What the host decided about one VF, in the words of `ip link set ... vf`."""

from dataclasses import dataclass
from enum import Enum


class LinkPolicy(Enum):
    """`state` of `ip link set ... vf`: follow the port, or override it."""

    AUTO = "auto"
    ENABLE = "enable"
    DISABLE = "disable"


@dataclass(frozen=True)
class VfPolicy:
    """The host's side of a VF; rates in Mb/s, 0 = none; `port_vlan` 0 = none.

    `mac` of all zeros lets the guest's driver choose an address.  `mac_locked` keeps the guest to
    `mac`.  A VF without `trust` cannot become promiscuous and gets few VLAN filters.
    """

    mac: bytes = bytes(6)
    mac_locked: bool = False
    port_vlan: int = 0
    trust: bool = True
    spoofchk: bool = False
    link_state: LinkPolicy = LinkPolicy.AUTO
    min_rate: int = 0
    max_rate: int = 0
