"""The virtchnl channel of one VF, sans-IO: a request goes in, what is to be posted comes out.

`RULES` says for each opcode who serves it, in which states and with which capability.  Refusals
are made here and nowhere else: what is not served, not granted or not legal now gets
NOT_SUPPORTED (as ice's allow list), what does not parse or make sense the handler's status.
"""

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from emuiavf.errors import PeerError
from emuiavf.policy import VfPolicy
from emuiavf.virtchnl import (
    adv_rss,
    fdir,
    filters,
    link,
    ptp,
    qos,
    queues,
    resources,
    rss,
    stats,
    vectors,
    vlan,
)
from emuiavf.virtchnl.messages import VirtchnlError, decode
from emuiavf.virtchnl.ops import RSS_KEY_SIZE, Cap, Op, Status
from emuiavf.virtchnl.resources import ResetRequest
from emuiavf.virtchnl.state import Datapath, Link, Vf, VfLimits, VfState

__all__ = ["RULES", "Datapath", "Link", "Reply", "ResetRequest", "Rule", "Session", "VfLimits"]


@dataclass(frozen=True)
class Reply:
    """A message for the ARQ: an answer, or an event (`Op.EVENT`).

    `fault` is why a request was refused, for a rate-limited log; it does not reach the guest.
    """

    opcode: int
    status: Status = Status.SUCCESS
    body: bytes = b""
    fault: str = field(default="", compare=False)


@dataclass(frozen=True)
class Rule:
    """One row: handler, states in which the opcode is legal, capability it needs.

    `then_link`: a link event follows a success.
    """

    handler: Callable[[Vf, Any], bytes | ResetRequest]
    legal: VfState
    needs: Cap = Cap.NONE
    then_link: bool = False


_ACTIVE = VfState.ACTIVE
_LARGE = Cap.LARGE_NUM_QPAIRS

RULES: dict[Op, Rule] = {
    Op.VERSION: Rule(resources.on_version, VfState.ANY),
    Op.RESET_VF: Rule(resources.on_reset_vf, VfState.ANY),
    Op.GET_VF_RESOURCES: Rule(resources.on_get_vf_resources, VfState.ANY, then_link=True),
    Op.REQUEST_QUEUES: Rule(resources.on_request_queues, _ACTIVE, Cap.REQ_QUEUES),
    Op.CONFIG_VSI_QUEUES: Rule(queues.on_config_vsi_queues, _ACTIVE),
    Op.CONFIG_IRQ_MAP: Rule(vectors.on_config_irq_map, _ACTIVE),
    # iPXE and VPP learn from this event alone that the link is up.
    Op.ENABLE_QUEUES: Rule(queues.on_enable_queues, _ACTIVE, then_link=True),
    Op.DISABLE_QUEUES: Rule(queues.on_disable_queues, _ACTIVE),
    Op.GET_MAX_RSS_QREGION: Rule(queues.on_get_max_rss_qregion, _ACTIVE, _LARGE),
    Op.ENABLE_QUEUES_V2: Rule(queues.on_enable_queues_v2, _ACTIVE, _LARGE, then_link=True),
    Op.DISABLE_QUEUES_V2: Rule(queues.on_disable_queues_v2, _ACTIVE, _LARGE),
    Op.MAP_QUEUE_VECTOR: Rule(vectors.on_map_queue_vector, _ACTIVE, _LARGE),
    Op.GET_STATS: Rule(stats.on_get_stats, _ACTIVE),
    Op.ADD_ETH_ADDR: Rule(filters.on_add_eth_addr, _ACTIVE, Cap.L2),
    Op.DEL_ETH_ADDR: Rule(filters.on_del_eth_addr, _ACTIVE, Cap.L2),
    Op.CONFIG_PROMISCUOUS_MODE: Rule(filters.on_config_promiscuous_mode, _ACTIVE, Cap.L2),
    Op.CONFIG_RSS_KEY: Rule(rss.on_config_rss_key, _ACTIVE, Cap.RSS_PF),
    Op.CONFIG_RSS_LUT: Rule(rss.on_config_rss_lut, _ACTIVE, Cap.RSS_PF),
    Op.GET_RSS_HENA_CAPS: Rule(rss.on_get_rss_hena_caps, _ACTIVE, Cap.RSS_PF),
    Op.SET_RSS_HENA: Rule(rss.on_set_rss_hena, _ACTIVE, Cap.RSS_PF),
    Op.CONFIG_RSS_HFUNC: Rule(rss.on_config_rss_hfunc, _ACTIVE, Cap.RSS_PF),
    Op.ADD_RSS_CFG: Rule(adv_rss.on_add_rss_cfg, _ACTIVE, Cap.ADV_RSS_PF),
    Op.DEL_RSS_CFG: Rule(adv_rss.on_del_rss_cfg, _ACTIVE, Cap.ADV_RSS_PF),
    Op.ADD_FDIR_FILTER: Rule(fdir.on_add_fdir_filter, _ACTIVE, Cap.FDIR_PF),
    Op.DEL_FDIR_FILTER: Rule(fdir.on_del_fdir_filter, _ACTIVE, Cap.FDIR_PF),
    Op.GET_SUPPORTED_RXDIDS: Rule(queues.on_get_supported_rxdids, _ACTIVE, Cap.RX_FLEX_DESC),
    Op.PTP_GET_CAPS: Rule(ptp.on_ptp_get_caps, _ACTIVE, Cap.PTP),
    Op.PTP_GET_TIME: Rule(ptp.on_ptp_get_time, _ACTIVE, Cap.PTP),
    Op.ADD_VLAN: Rule(vlan.on_add_vlan, _ACTIVE, Cap.VLAN),
    Op.DEL_VLAN: Rule(vlan.on_del_vlan, _ACTIVE, Cap.VLAN),
    Op.ENABLE_VLAN_STRIPPING: Rule(vlan.on_enable_vlan_stripping, _ACTIVE, Cap.VLAN),
    Op.DISABLE_VLAN_STRIPPING: Rule(vlan.on_disable_vlan_stripping, _ACTIVE),
    Op.GET_OFFLOAD_VLAN_V2_CAPS: Rule(vlan.on_get_offload_vlan_v2_caps, _ACTIVE, Cap.VLAN_V2),
    Op.ADD_VLAN_V2: Rule(vlan.on_add_vlan_v2, _ACTIVE, Cap.VLAN_V2),
    Op.DEL_VLAN_V2: Rule(vlan.on_del_vlan_v2, _ACTIVE, Cap.VLAN_V2),
    Op.ENABLE_VLAN_STRIPPING_V2: Rule(vlan.on_enable_vlan_stripping_v2, _ACTIVE, Cap.VLAN_V2),
    Op.DISABLE_VLAN_STRIPPING_V2: Rule(vlan.on_disable_vlan_stripping_v2, _ACTIVE, Cap.VLAN_V2),
    Op.ENABLE_VLAN_INSERTION_V2: Rule(vlan.on_enable_vlan_insertion_v2, _ACTIVE, Cap.VLAN_V2),
    Op.DISABLE_VLAN_INSERTION_V2: Rule(vlan.on_disable_vlan_insertion_v2, _ACTIVE, Cap.VLAN_V2),
    Op.GET_QOS_CAPS: Rule(qos.on_get_qos_caps, _ACTIVE, Cap.QOS),
    Op.CONFIG_QUEUE_TC_MAP: Rule(qos.on_config_queue_tc_map, _ACTIVE, Cap.QOS),
    Op.CONFIG_QUEUE_BW: Rule(qos.on_config_queue_bw, _ACTIVE, Cap.QOS),
    Op.CONFIG_QUANTA: Rule(qos.on_config_quanta, _ACTIVE, Cap.QOS),
}

_SERVED = {int(op): op for op in RULES}
_KNOWN = {int(op): op for op in Op}


class Session:
    """The PF's side for one VF.  What `handle` returns is to be carried out in that order."""

    def __init__(
        self,
        policy: VfPolicy,
        limits: VfLimits,
        datapath: Datapath,
        *,
        rss_key: bytes | None = None,
    ) -> None:
        """`rss_key` is the key that is used until the guest sends one; None draws it at random."""
        key = rss_key if rss_key is not None else secrets.token_bytes(RSS_KEY_SIZE)
        self.vf = Vf(policy, limits, datapath, key)
        self.vf.push_defaults()
        self.answered: Counter[Op] = Counter()
        self.refused: Counter[Op] = Counter()
        """How often each was asked since the start; what has no name counts as UNKNOWN."""

    @property
    def num_queue_pairs(self) -> int:
        """Queue pairs that the VF has, or will have after the reset that it has asked for."""
        return self.vf.num_queue_pairs

    @property
    def mac(self) -> bytes:
        """The VF's own address."""
        return self.vf.config.mac

    def handle(self, opcode: int, body: bytes) -> list[Reply | ResetRequest]:
        """At most one answer, then the events that follow from it; or a reset to be made, then its
        notice.

        Between a ResetRequest and `reset()` the VF gets no answers: they would reach the driver
        after the reset.
        """
        if self.vf.state is VfState.RESETTING:
            return []
        results = self._serve(opcode, body)
        first = results[0]
        is_refused = isinstance(first, Reply) and first.status is not Status.SUCCESS
        (self.refused if is_refused else self.answered)[_KNOWN.get(opcode, Op.UNKNOWN)] += 1
        return results

    def _serve(self, opcode: int, body: bytes) -> list[Reply | ResetRequest]:
        vf = self.vf
        try:
            op, rule = self._rule(opcode)
            result = rule.handler(vf, decode(op, body))
        except VirtchnlError as error:
            return [Reply(opcode, error.status, error.body, fault=str(error))]
        except PeerError as error:  # the data path cannot reach the memory of a ring
            return [Reply(opcode, Status.ERR_PARAM, fault=str(error))]
        if isinstance(result, ResetRequest):
            notice = self._reset_notice() if result.reason is Op.REQUEST_QUEUES else []
            return [result, *notice]
        return [Reply(opcode, body=result), *(self.link_event() if rule.then_link else [])]

    def reset(self) -> None:
        """VF reset: only version, own address, queue pairs and counters are kept."""
        self.vf.reset()

    def restart(self) -> None:
        """The guest is gone and another may come: nothing of it is kept."""
        self.vf.restart()

    def set_policy(self, policy: VfPolicy) -> tuple[list[Reply], bool]:
        """The host has decided anew: events for the VF, and whether it has to be reset for it."""
        moved = policy.link_state is not self.vf.policy.link_state
        has_to_reset = self.vf.set_policy(policy)
        return self.link_event() if moved else [], has_to_reset

    def cut_link(self, cut: bool) -> list[Reply]:
        """Injected: the link is down while it is cut; returns the event."""
        self.vf.link_cut = cut
        return self.link_event()

    def set_link(self, link_state: Link) -> list[Reply]:
        """The port's link has changed; returns the event for a VF that may have one."""
        self.vf.link = link_state
        return self.link_event()

    def link_event(self) -> list[Reply]:
        """LINK_CHANGE with the present state, or nothing before GET_VF_RESOURCES is answered.

        DPDK's event handler dereferences what that answer fills.
        """
        if self.vf.state is not VfState.ACTIVE:
            return []
        return [Reply(Op.EVENT, body=link.link_change(self.vf))]

    def reset_impending(self) -> list[Reply]:
        """RESET_IMPENDING before a reset that the host makes, under the rule of `link_event`."""
        return self._reset_notice() if self.vf.state is VfState.ACTIVE else []

    def _reset_notice(self) -> list[Reply]:
        return [Reply(Op.EVENT, body=link.reset_impending())]

    def _rule(self, opcode: int) -> tuple[Op, Rule]:
        vf = self.vf
        op = _SERVED.get(opcode)
        if op is None:
            raise VirtchnlError(f"opcode {opcode} is not served", Status.NOT_SUPPORTED)
        rule = RULES[op]
        if vf.state not in rule.legal:
            raise VirtchnlError(f"{op.name} before GET_VF_RESOURCES", Status.NOT_SUPPORTED)
        if rule.needs not in vf.config.caps:
            raise VirtchnlError(f"{op.name} needs {rule.needs.name}", Status.NOT_SUPPORTED)
        return op, rule
