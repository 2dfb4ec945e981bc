"""VLAN filters, stripping and insertion of capability VLAN_V2, in single-VLAN mode.

One tag of TPID 0x8100, which virtchnl calls the inner one, may be filtered, stripped into L2TAG1
and inserted from L2TAG1.  There is no outer tag to talk about.
"""

from dataclasses import replace

from emuiavf.emudev.info import VlanOffload
from emuiavf.virtchnl.messages import Listing, VlanCaps, VlanFilter, VlanSetting
from emuiavf.virtchnl.ops import VlanSupport
from emuiavf.virtchnl.state import Vf, check

MAX_VLAN_FILTERS = 4096
MAX_VLAN_FILTERS_UNTRUSTED = 8

TPID = 0x8100
MAX_VLAN_ID = 4095
_OFFLOAD = VlanSupport.TOGGLE | VlanSupport.TPID_8100 | VlanSupport.L2TAG1


def on_get_offload_vlan_v2_caps(vf: Vf, msg: None) -> bytes:
    """GET_OFFLOAD_VLAN_V2_CAPS: single-VLAN mode as ice reports it."""
    return VlanCaps(
        filtering_outer=VlanSupport.NONE,
        filtering_inner=VlanSupport.TPID_8100,
        filtering_ethertype_init=VlanSupport.TPID_8100,
        max_filters=_max_filters(vf),
        stripping_outer=VlanSupport.NONE,
        stripping_inner=_OFFLOAD,
        insertion_outer=VlanSupport.NONE,
        insertion_inner=_OFFLOAD,
        offloads_ethertype_init=VlanSupport.TPID_8100,
        ethertype_match=0,
    ).encode()


def on_add_vlan_v2(vf: Vf, msg: Listing) -> bytes:
    """ADD_VLAN_V2: receive these VLANs; the first one begins the pruning of all others.

    VLAN 0 is accepted and changes nothing: untagged and priority-tagged frames always pass.
    """
    vlans = vf.config.vlans | _checked_ids(vf, msg)
    limit = _max_filters(vf)
    check(len(vlans) <= limit, f"{len(vlans)} VLAN filters, at most {limit}")
    vf.update_rx_filter(vlans=vlans)
    return b""


def on_del_vlan_v2(vf: Vf, msg: Listing) -> bytes:
    """DEL_VLAN_V2: stop receiving these VLANs; unknown ones are no error, the last ends pruning."""
    vf.update_rx_filter(vlans=vf.config.vlans - _checked_ids(vf, msg))
    return b""


def on_enable_vlan_stripping_v2(vf: Vf, msg: VlanSetting) -> bytes:
    """ENABLE_VLAN_STRIPPING_V2."""
    _check_setting(vf, msg)
    return _apply(vf, replace(vf.config.vlan_offload, strip=True))


def on_disable_vlan_stripping_v2(vf: Vf, msg: VlanSetting) -> bytes:
    """DISABLE_VLAN_STRIPPING_V2; no error when it is off."""
    _check_setting(vf, msg)
    return _apply(vf, replace(vf.config.vlan_offload, strip=False))


def on_enable_vlan_insertion_v2(vf: Vf, msg: VlanSetting) -> bytes:
    """ENABLE_VLAN_INSERTION_V2."""
    _check_setting(vf, msg)
    return _apply(vf, replace(vf.config.vlan_offload, insert=True))


def on_disable_vlan_insertion_v2(vf: Vf, msg: VlanSetting) -> bytes:
    """DISABLE_VLAN_INSERTION_V2; no error when it is off."""
    _check_setting(vf, msg)
    return _apply(vf, replace(vf.config.vlan_offload, insert=False))


def on_disable_vlan_stripping(vf: Vf, msg: None) -> bytes:
    """DISABLE_VLAN_STRIPPING of VLAN version 1, accepted from all: VPP avf fails without it."""
    return _apply(vf, replace(vf.config.vlan_offload, strip=False))


def _checked_ids(vf: Vf, msg: Listing) -> frozenset[int]:
    """The VLAN ids of a list, 0 left out; every filter must be of the kind that is offered."""
    vf.check_vsi(msg.head.vport_id)
    for item in msg.items:
        _check_filter(item)
    return frozenset(item.inner_tci for item in msg.items) - {0}


def _check_filter(item: VlanFilter) -> None:
    check(not (item.outer_tci or item.outer_tpid), "outer VLAN filters are not offered")
    check(bool(item.inner_tci or item.inner_tpid), "a VLAN filter without a VLAN")
    check(item.inner_tpid == TPID, f"inner TPID {item.inner_tpid:#06x}, only {TPID:#06x}")
    check(not (item.inner_tci_mask or item.outer_tci_mask), "VLAN masks are not offered")
    check(item.inner_tci <= MAX_VLAN_ID, f"inner TCI {item.inner_tci:#06x} has priority bits")


def _check_setting(vf: Vf, msg: VlanSetting) -> None:
    vf.check_vsi(msg.vport_id)
    outer, inner = msg.outer_ethertype_setting, msg.inner_ethertype_setting
    check(outer == 0, f"outer setting {outer:#x}: the outer tag is not offered")
    check(inner == VlanSupport.TPID_8100, f"inner setting {inner:#x}, only 8100 is offered")


def _apply(vf: Vf, offload: VlanOffload) -> bytes:
    if offload != vf.config.vlan_offload:
        vf.datapath.set_vlan_offload(offload)
        vf.update(vlan_offload=offload)
    return b""


def _max_filters(vf: Vf) -> int:
    return MAX_VLAN_FILTERS if vf.policy.trust else MAX_VLAN_FILTERS_UNTRUSTED
