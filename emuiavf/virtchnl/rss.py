"""Spreading received frames over queues: key, LUT, packet classes (HENA) and hash function.

What is hashed in other ways than a class of HENA says is `adv_rss`'s.  All of it may come before
any queue exists; LUT entries are therefore not compared with queues, and the data path sends what
names no enabled queue to queue 0.
"""

from collections.abc import Mapping
from dataclasses import replace

from emuiavf.emudev.info import RssConfig
from emuiavf.virtchnl import adv_rss
from emuiavf.virtchnl.flows import Stack, StackHash
from emuiavf.virtchnl.messages import Listing, RssHena, RssHfunc
from emuiavf.virtchnl.ops import HENA_SUPPORTED, RSS_KEY_SIZE, RSS_LUT_SIZE, HashFunc
from emuiavf.virtchnl.state import Vf, check


def on_config_rss_key(vf: Vf, msg: Listing) -> bytes:
    """CONFIG_RSS_KEY."""
    vf.check_vsi(msg.head.vsi_id)
    check(len(msg.items) == RSS_KEY_SIZE, f"key_len={len(msg.items)}, needs {RSS_KEY_SIZE}")
    return _apply(vf, replace(vf.config.rss, key=msg.items))


def on_config_rss_lut(vf: Vf, msg: Listing) -> bytes:
    """CONFIG_RSS_LUT: VPP sends 64 entries whatever it was told."""
    vf.check_vsi(msg.head.vsi_id)
    size = vf.rss_lut_size
    check(len(msg.items) in (size, RSS_LUT_SIZE), f"lut_entries={len(msg.items)}, needs {size}")
    return _apply(vf, replace(vf.config.rss, lut=msg.items))


def on_get_rss_hena_caps(vf: Vf, msg: None) -> bytes:
    """GET_RSS_HENA_CAPS: the packet classes that can be hashed."""
    return RssHena(HENA_SUPPORTED).encode()


def on_set_rss_hena(vf: Vf, msg: RssHena) -> bytes:
    """SET_RSS_HENA: classes that we do not know are left out (FreeBSD's default names some).

    As in ice it takes the place of all that ADD_RSS_CFG has made.
    """
    return _apply(vf, replace(vf.config.rss, hena=msg.hena & HENA_SUPPORTED), {})


def on_config_rss_hfunc(vf: Vf, msg: RssHfunc) -> bytes:
    """CONFIG_RSS_HFUNC: as in ice, all that is not symmetric Toeplitz means plain Toeplitz.

    It is for all that is hashed, whatever ADD_RSS_CFG has said of single stacks.
    """
    vf.check_vsi(msg.vsi_id)
    symmetric = msg.rss_algorithm == HashFunc.SYMMETRIC_TOEPLITZ
    stacks = {s: replace(h, symmetric=symmetric) for s, h in vf.config.hash_stacks.items()}
    return _apply(vf, replace(vf.config.rss, symmetric=symmetric, xor=False), stacks)


def _apply(vf: Vf, rss: RssConfig, stacks: Mapping[Stack, StackHash] | None = None) -> bytes:
    adv_rss.apply(vf, rss, vf.config.hash_stacks if stacks is None else stacks)
    return b""
