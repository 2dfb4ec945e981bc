"""Which addresses a VF receives: ADD_ETH_ADDR, DEL_ETH_ADDR, CONFIG_PROMISCUOUS_MODE."""

from collections.abc import Iterator

from emuiavf.virtchnl.messages import EtherAddr, Listing, PromiscInfo, VirtchnlError
from emuiavf.virtchnl.ops import EtherAddrType, Promisc, Status
from emuiavf.virtchnl.state import Vf, check

MAX_MAC_FILTERS = 256
"""Addresses of one VF, its own included.  FreeBSD uses up to 128 multicast, DPDK 64 and 64."""
MAX_MAC_FILTERS_UNTRUSTED = 18

BROADCAST = b"\xff" * 6
_TYPE_MASK = 3


def on_add_eth_addr(vf: Vf, msg: Listing) -> bytes:
    """ADD_ETH_ADDR: receive these addresses too; one that is there already is no error.

    A unicast address becomes the VF's own when it is of type primary, and keeps that over resets;
    a legacy one does so until the next reset, when the VF has given up the one it had.
    """
    vf.check_vsi(msg.head.vsi_id)
    mac, macs, default_mac = vf.config.mac, set(vf.config.macs), vf.default_mac
    for entry in _real_entries(msg):
        addr, kind = entry.addr, entry.type & _TYPE_MASK
        if not addr[0] & 1 and addr != mac:
            _check_may_change_mac(vf, addr)
            if kind == EtherAddrType.PRIMARY:
                mac = default_mac = addr
            elif kind == EtherAddrType.LEGACY and mac not in macs:
                mac = addr
        elif addr == mac and kind == EtherAddrType.PRIMARY:
            default_mac = addr
        macs.add(addr)
    limit = MAX_MAC_FILTERS if vf.policy.trust else MAX_MAC_FILTERS_UNTRUSTED
    check(len(macs) <= limit, f"{len(macs)} addresses, at most {limit}")
    vf.update_rx_filter(mac=mac, macs=frozenset(macs))
    vf.default_mac = default_mac
    return b""


def on_del_eth_addr(vf: Vf, msg: Listing) -> bytes:
    """DEL_ETH_ADDR: stop receiving these addresses; an unknown one is no error.

    The VF's own address may go too (Linux does that at ifdown) and stays the one reported.
    """
    vf.check_vsi(msg.head.vsi_id)
    vf.update_rx_filter(macs=vf.config.macs - {entry.addr for entry in msg.items})
    return b""


def on_config_promiscuous_mode(vf: Vf, msg: PromiscInfo) -> bytes:
    """CONFIG_PROMISCUOUS_MODE: receive all unicast or all multicast frames.

    As in ice, a VF without trust is told that this worked, and nothing changes.
    """
    vf.check_vsi(msg.vsi_id)
    if vf.policy.trust:
        vf.update_rx_filter(promisc=Promisc(msg.flags & (Promisc.UNICAST | Promisc.MULTICAST)))
    return b""


def _real_entries(msg: Listing) -> Iterator[EtherAddr]:
    """The entries that mean something: not all zeros, and not broadcast, which always passes."""
    return (entry for entry in msg.items if any(entry.addr) and entry.addr != BROADCAST)


def _check_may_change_mac(vf: Vf, addr: bytes) -> None:
    if vf.policy.mac_locked:
        text = f"{addr.hex(':')}: the host allows no other unicast address"
        raise VirtchnlError(text, Status.ERR_ADMIN_QUEUE_ERROR)
