"""Who the VF is and what it is told of itself: version, resources, statistics, events."""

from typing import Annotated

from emuiavf.layout import S32, U16, U32, U64, Mac, Wire, wire


@wire(size=8)
class Version(Wire):
    """VERSION, both ways."""

    major: U32
    minor: U32


@wire(size=4)
class CapRequest(Wire):
    """GET_VF_RESOURCES of a 1.1 VF: the capability bits it can use."""

    caps: U32


@wire(size=36)
class VfResources(Wire):
    """Reply of GET_VF_RESOURCES with its one VSI."""

    num_vsis: U16
    num_queue_pairs: U16
    max_vectors: U16
    max_mtu: U16
    vf_cap_flags: U32
    rss_key_size: U32
    rss_lut_size: U32
    vsi_id: U16
    vsi_num_queue_pairs: U16
    vsi_type: S32
    qset_handle: U16
    default_mac_addr: Mac


@wire(size=96)
class StatsReply(Wire):
    """Reply of GET_STATS: totals since the device started."""

    rx_bytes: U64
    rx_unicast: U64
    rx_multicast: U64
    rx_broadcast: U64
    rx_discards: U64
    rx_unknown_protocol: U64
    tx_bytes: U64
    tx_unicast: U64
    tx_multicast: U64
    tx_broadcast: U64
    tx_discards: U64
    tx_errors: U64


@wire(size=16)
class PfEvent(Wire):
    """EVENT; `link_speed` in Mbps with ADV_LINK_SPEED, else a `LinkSpeed` code."""

    event: S32
    link_speed: U32
    link_status: Annotated[int, "B3x"]
    severity: S32
