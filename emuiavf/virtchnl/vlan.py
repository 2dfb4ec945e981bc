"""VLAN filters, stripping and insertion: capability VLAN_V2 in double-VLAN mode, or VLAN.

As ice has it with two tags: filters are of the outermost tag, with its TPID.  The outer tag moves
from and to L2TAG2 and has one of three TPIDs at a time, the inner one is of 0x8100 and in L2TAG1.
Where only one is stripped, it is the outermost.

Version 1 (VLAN) knows one tag of TPID 0x8100, in L2TAG1, whose stripping is on from the start.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from emuiavf.emudev.info import VlanOffload, vlan_tag
from emuiavf.policy import TPID_8021AD, TPID_8021Q
from emuiavf.virtchnl.messages import Listing, VirtchnlError, VlanCaps, VlanFilter, VlanSetting
from emuiavf.virtchnl.ops import Cap, Status, VlanSupport
from emuiavf.virtchnl.state import Vf, check

MAX_VLAN_FILTERS = 4096
MAX_VLAN_FILTERS_UNTRUSTED = 8

MAX_VLAN_ID = 4095
TPIDS = {
    TPID_8021Q: VlanSupport.TPID_8100,
    TPID_8021AD: VlanSupport.TPID_88A8,
    0x9100: VlanSupport.TPID_9100,
}

_ANY = VlanSupport.TPID_8100 | VlanSupport.TPID_88A8 | VlanSupport.TPID_9100
_INNER = VlanSupport.TOGGLE | VlanSupport.TPID_8100 | VlanSupport.L2TAG1
_OUTER = VlanSupport.TOGGLE | _ANY | VlanSupport.XOR

# Fields of VlanOffload: the inner tag's, the outer one's.
_STRIP = ("strip", "strip_outer")
_INSERT = ("insert", "insert_outer")


def on_get_offload_vlan_v2_caps(vf: Vf, msg: None) -> bytes:
    """GET_OFFLOAD_VLAN_V2_CAPS: double-VLAN mode as ice reports it."""
    return VlanCaps(
        filtering_outer=_ANY | VlanSupport.AND,
        filtering_inner=VlanSupport.NONE,
        filtering_ethertype_init=_ANY,
        max_filters=_max_filters(vf),
        stripping_outer=_OUTER | VlanSupport.L2TAG2_2,
        stripping_inner=_INNER,
        insertion_outer=_OUTER | VlanSupport.L2TAG2,
        insertion_inner=_INNER,
        offloads_ethertype_init=VlanSupport.TPID_8100,
        ethertype_match=0,
    ).encode()


def on_add_vlan_v2(vf: Vf, msg: Listing) -> bytes:
    """ADD_VLAN_V2: receive these VLANs; the first one begins the pruning of all others.

    VLAN 0 is accepted and changes nothing: untagged and priority-tagged frames always pass.
    """
    return _add(vf, _checked_filters(vf, msg))


def on_del_vlan_v2(vf: Vf, msg: Listing) -> bytes:
    """DEL_VLAN_V2: stop receiving these VLANs; unknown ones are no error, the last ends pruning."""
    return _delete(vf, _checked_filters(vf, msg))


def on_add_vlan(vf: Vf, msg: Listing) -> bytes:
    """ADD_VLAN of version 1: as ADD_VLAN_V2 with TPID 0x8100."""
    return _add(vf, _checked_ids(vf, msg))


def on_del_vlan(vf: Vf, msg: Listing) -> bytes:
    """DEL_VLAN of version 1."""
    return _delete(vf, _checked_ids(vf, msg))


def on_enable_vlan_stripping_v2(vf: Vf, msg: VlanSetting) -> bytes:
    """ENABLE_VLAN_STRIPPING_V2; an outer TPID replaces the one before."""
    return _switch(vf, msg, _STRIP, True)


def on_disable_vlan_stripping_v2(vf: Vf, msg: VlanSetting) -> bytes:
    """DISABLE_VLAN_STRIPPING_V2 of the tags named, whatever the TPID; no error when it is off."""
    return _switch(vf, msg, _STRIP, False)


def on_enable_vlan_insertion_v2(vf: Vf, msg: VlanSetting) -> bytes:
    """ENABLE_VLAN_INSERTION_V2; an outer TPID replaces the one before."""
    return _switch(vf, msg, _INSERT, True)


def on_disable_vlan_insertion_v2(vf: Vf, msg: VlanSetting) -> bytes:
    """DISABLE_VLAN_INSERTION_V2 of the tags named, whatever the TPID; no error when it is off."""
    return _switch(vf, msg, _INSERT, False)


def on_enable_vlan_stripping(vf: Vf, msg: None) -> bytes:
    """ENABLE_VLAN_STRIPPING of version 1."""
    return _apply(vf, replace(vf.config.vlan_offload, strip=True))


def on_disable_vlan_stripping(vf: Vf, msg: None) -> bytes:
    """DISABLE_VLAN_STRIPPING of version 1, accepted from all: VPP avf fails without it."""
    return _apply(vf, replace(vf.config.vlan_offload, strip=False, strip_outer=0))


def negotiated(vf: Vf, caps: Cap) -> None:
    """A VF that gets version 1, or loses it: its stripping is then on, or everything off."""
    version_1 = Cap.VLAN in caps
    if version_1 is not (Cap.VLAN in vf.config.caps):
        _set(vf, VlanOffload(strip=version_1, insert=version_1))


def _add(vf: Vf, more: frozenset[int]) -> bytes:
    vlans = vf.config.vlans | more
    limit = _max_filters(vf)
    check(len(vlans) <= limit, f"{len(vlans)} VLAN filters, at most {limit}")
    vf.update_rx_filter(vlans=vlans)
    return b""


def _delete(vf: Vf, fewer: frozenset[int]) -> bytes:
    vf.update_rx_filter(vlans=vf.config.vlans - fewer)
    return b""


def _checked_ids(vf: Vf, msg: Listing) -> frozenset[int]:
    """The VLANs of a list of version 1, 0 left out."""
    vf.check_vsi(msg.head.vsi_id)
    return _vlans((item.vlan_id, TPID_8021Q) for item in msg.items)


def _checked_filters(vf: Vf, msg: Listing) -> frozenset[int]:
    """The VLANs of a list, id 0 left out; every filter must be of the kind that is offered."""
    vf.check_vsi(msg.head.vport_id)
    for item in msg.items:
        _check_filter(item)
    return _vlans((item.outer_tci, item.outer_tpid) for item in msg.items)


def _check_filter(item: VlanFilter) -> None:
    check(not (item.inner_tci or item.inner_tpid), "inner VLAN filters are not offered")
    check(bool(item.outer_tci or item.outer_tpid), "a VLAN filter without a VLAN")
    check(item.outer_tpid in TPIDS, f"outer TPID {item.outer_tpid:#06x} is not offered")
    check(not (item.inner_tci_mask or item.outer_tci_mask), "VLAN masks are not offered")


def _vlans(tags: Iterable[tuple[int, int]]) -> frozenset[int]:
    found = set()
    for vlan_id, tpid in tags:
        check(vlan_id <= MAX_VLAN_ID, f"VLAN {vlan_id:#06x}: ids have 12 bits")
        if vlan_id:
            found.add(vlan_tag(vlan_id, tpid))
    return frozenset(found)


def _checked_setting(vf: Vf, msg: VlanSetting) -> tuple[int, bool]:
    """TPID of the outer tag (0: not named), and whether the inner one is named."""
    vf.check_vsi(msg.vport_id)
    outer, inner = msg.outer_ethertype_setting, msg.inner_ethertype_setting
    check(bool(outer or inner), "no tag named")
    check(inner in (0, VlanSupport.TPID_8100), f"inner setting {inner:#x}, only 8100 is offered")
    tpid = next((tpid for tpid, bit in TPIDS.items() if outer == bit), 0)
    check(outer == 0 or tpid != 0, f"outer setting {outer:#x}: one TPID at a time")
    return tpid, inner != 0


def _switch(vf: Vf, msg: VlanSetting, fields: tuple[str, str], on: bool) -> bytes:
    """Switch what the setting names on, the outer tag with its TPID, or off."""
    outer, inner = _checked_setting(vf, msg)
    changes: dict[str, Any] = {}
    if inner:
        changes[fields[0]] = on
    if outer:
        changes[fields[1]] = outer if on else 0
    return _apply(vf, replace(vf.config.vlan_offload, **changes))


def _apply(vf: Vf, offload: VlanOffload) -> bytes:
    if (offload.strip or offload.strip_outer) and any(q.keep_crc for q in vf.config.rx.values()):
        raise VirtchnlError("VLAN stripping while a queue keeps the CRC", Status.NOT_SUPPORTED)
    _set(vf, offload)
    return b""


def _set(vf: Vf, offload: VlanOffload) -> None:
    if offload != vf.config.vlan_offload:
        vf.datapath.set_vlan_offload(offload)
        vf.update(vlan_offload=offload)


def _max_filters(vf: Vf) -> int:
    return MAX_VLAN_FILTERS if vf.policy.trust else MAX_VLAN_FILTERS_UNTRUSTED
