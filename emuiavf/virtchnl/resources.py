"""VERSION, GET_VF_RESOURCES, RESET_VF and REQUEST_QUEUES: what a VF is given, and starting over."""

from dataclasses import dataclass

from emuiavf.virtchnl import vlan
from emuiavf.virtchnl.messages import CapRequest, QueueRequest, Version, VfResources
from emuiavf.virtchnl.ops import (
    RSS_KEY_SIZE,
    VERSION_MAJOR,
    VERSION_MINOR,
    Cap,
    Op,
    VsiType,
)
from emuiavf.virtchnl.state import MAX_PLAIN_QUEUE_PAIRS, VSI_ID, Vf, VfState, check

GRANTED = (
    Cap.L2
    | Cap.WB_ON_ITR
    | Cap.REQ_QUEUES
    | Cap.ADV_LINK_SPEED
    | Cap.CRC
    | Cap.VLAN_V2
    | Cap.VLAN
    | Cap.RX_POLLING
    | Cap.RSS_PCTYPE_V2
    | Cap.RSS_PF
    | Cap.RX_FLEX_DESC
    | Cap.ENCAP
    | Cap.ENCAP_CSUM
    | Cap.USO
    | Cap.ADV_RSS_PF
    | Cap.FDIR_PF
    | Cap.TC_U32
    | Cap.QOS
    | Cap.LARGE_NUM_QPAIRS
    | Cap.PTP
)
"""What a VF gets when it asks.  A bit stands here only when all of its opcodes are served."""


@dataclass(frozen=True)
class ResetRequest:
    """The VF is to be reset now; `queue_pairs` is what it will have then, None = as before."""

    reason: Op
    queue_pairs: int | None = None


def on_version(vf: Vf, msg: Version) -> bytes:
    """VERSION: 1.1, or 1.0 for a VF that speaks no newer one.  Remembered across resets."""
    vf.version = (msg.major, msg.minor)
    return Version(VERSION_MAJOR, 0 if _is_v10(vf) else VERSION_MINOR).encode()


def on_get_vf_resources(vf: Vf, msg: CapRequest | None) -> bytes:
    """GET_VF_RESOURCES: the VSI, its sizes and the part of the wanted capabilities we have.

    A 1.0 VF sends no capabilities and gets L2.  A second request changes the capabilities only.
    """
    check((msg is None) == _is_v10(vf), "capabilities belong to virtchnl 1.1, not to 1.0")
    caps = Cap.L2 if msg is None else _granted(vf, Cap(msg.caps))
    if Cap.FDIR_PF not in caps:
        caps &= ~Cap.TC_U32  # its raw patterns are rules of the flow director
    vlan.negotiated(vf, caps)
    vf.update(caps=caps)
    vf.state = VfState.ACTIVE
    return VfResources(
        num_vsis=1,
        num_queue_pairs=vf.num_queue_pairs,
        max_vectors=vf.limits.num_vectors,
        max_mtu=vf.max_frame,
        vf_cap_flags=caps,
        rss_key_size=RSS_KEY_SIZE,
        rss_lut_size=vf.rss_lut_size,
        vsi_id=VSI_ID,
        vsi_num_queue_pairs=vf.num_queue_pairs,
        vsi_type=VsiType.SRIOV,
        qset_handle=0,
        default_mac_addr=vf.config.mac,
    ).encode()


def on_reset_vf(vf: Vf, msg: None) -> ResetRequest:
    """RESET_VF: a reset and no answer."""
    vf.state = VfState.RESETTING
    return ResetRequest(Op.RESET_VF)


def on_request_queues(vf: Vf, msg: QueueRequest) -> bytes | ResetRequest:
    """REQUEST_QUEUES: a reset with that many pairs, or an answer with what could be had.

    A number that can be had always resets, the present one too: iPXE waits for it.
    """
    pairs = msg.num_queue_pairs
    if pairs == 0 or pairs > vf.max_queue_pairs:
        return QueueRequest(min(pairs, vf.max_queue_pairs)).encode()
    vf.given_queue_pairs = pairs
    vf.state = VfState.RESETTING
    return ResetRequest(Op.REQUEST_QUEUES, pairs)


def _granted(vf: Vf, wanted: Cap) -> Cap:
    """A VF in a port VLAN has nothing to do with tags (ice grants VLAN_V2 with nothing in it).

    Of the two versions of VLAN a VF gets one, the newer if it can.
    """
    caps = wanted & GRANTED & vf.limits.offered
    if vf.limits.max_queue_pairs <= MAX_PLAIN_QUEUE_PAIRS:
        caps &= ~Cap.LARGE_NUM_QPAIRS
    if vf.policy.port_vlan:
        return caps & ~(Cap.VLAN | Cap.VLAN_V2)
    return caps & ~Cap.VLAN if Cap.VLAN_V2 in caps else caps


def _is_v10(vf: Vf) -> bool:
    return vf.version == (VERSION_MAJOR, 0)
