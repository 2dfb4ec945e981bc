"""What the PF knows about one VF: the facts that live long, and what the guest has configured.

Everything that a message can change is in the frozen `VfConfig`, replaced as a whole after the
data path has taken the change: a refused message cannot leave half of it behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Flag
from typing import Any, Protocol

from emuiavf.emudev.info import (
    EthStats,
    RssConfig,
    RxFilter,
    RxQueueConfig,
    Sink,
    TxQueueConfig,
    TxShaping,
    VectorMap,
    VlanOffload,
)
from emuiavf.policy import MTU_OVERHEAD, VfPolicy
from emuiavf.virtchnl.flows import Filter, Stack, StackHash
from emuiavf.virtchnl.messages import VirtchnlError
from emuiavf.virtchnl.ops import (
    HENA_SUPPORTED,
    MAX_FRAME,
    RSS_LUT_SIZE,
    RSS_LUT_SIZE_LARGE,
    Cap,
    Promisc,
)

VSI_ID = 1
"""The VF's one VSI, as ice numbers it; drivers echo it in every message."""

MAX_PLAIN_QUEUE_PAIRS = 16
"""Queue pairs that bitmaps of messages can name; more need LARGE_NUM_QPAIRS."""

_TAG = 4
_TOLD_BY_RESET = ("mac", "mac_locked", "port_vlan", "port_qos", "port_tpid", "trust", "mtu")


class VfState(Flag):
    """INITIAL until GET_VF_RESOURCES is answered; RESETTING from a reset request to `reset()`."""

    INITIAL = 1
    ACTIVE = 2
    RESETTING = 4
    ANY = INITIAL | ACTIVE


@dataclass(frozen=True)
class VfLimits:
    """Sizes of the device: `num_queue_pairs` at first, `num_vectors` includes vector 0.

    `offered` limits what is granted of that which is served.
    """

    num_queue_pairs: int
    max_queue_pairs: int
    num_vectors: int
    max_frame: int = MAX_FRAME
    offered: Cap = ~Cap.NONE


@dataclass(frozen=True)
class Link:
    """State of the port that the VF hangs on."""

    up: bool = True
    speed_mbps: int = 100_000


class Datapath(Sink, Protocol):
    """Where finished facts go, and where the counters and the time come from."""

    def eth_stats(self) -> EthStats: ...

    def phc_ns(self) -> int: ...


@dataclass(frozen=True)
class VfConfig:
    """All that messages configure and a reset forgets.

    `mac` is the VF's own address, which it may have taken out of `macs`.  `hash_stacks`: what
    ADD_RSS_CFG has put in the place of classes of `rss`.  `fdir`: flow director rules by their
    ids.  `*_stopped`: queues that were running under their present configuration and have been
    disabled since.
    """

    mac: bytes
    macs: frozenset[bytes]
    rss: RssConfig
    hash_stacks: Mapping[Stack, StackHash] = field(default_factory=dict)
    fdir: Mapping[int, Filter] = field(default_factory=dict)
    caps: Cap = Cap.NONE
    promisc: Promisc = Promisc.NONE
    vlans: frozenset[int] = frozenset()
    vlan_offload: VlanOffload = field(default_factory=VlanOffload)
    tx_shaping: TxShaping = field(default_factory=TxShaping)
    tx: Mapping[int, TxQueueConfig] = field(default_factory=dict)
    rx: Mapping[int, RxQueueConfig] = field(default_factory=dict)
    tx_enabled: int = 0
    rx_enabled: int = 0
    tx_stopped: int = 0
    rx_stopped: int = 0
    vectors: Mapping[int, VectorMap] = field(default_factory=dict)

    @property
    def rx_filter(self) -> RxFilter:
        """The receive filter that follows from addresses, promiscuous mode and VLAN filters.

        VLAN 0 passes the pruning: a priority tag names no VLAN (ice adds VLAN 0 to each VSI).
        """
        return RxFilter(
            macs=self.macs,
            promisc_unicast=bool(self.promisc & Promisc.UNICAST),
            promisc_multicast=bool(self.promisc & Promisc.MULTICAST),
            vlans=self.vlans | {0} if self.vlans else None,
        )


class Vf:
    """The control state of one VF, and the handlers' way to the data path."""

    def __init__(
        self, policy: VfPolicy, limits: VfLimits, datapath: Datapath, rss_key: bytes
    ) -> None:
        self.policy = policy
        self.limits = limits
        self.datapath = datapath
        self.link = Link()
        self.link_cut = False  # injected: down, whatever port and policy say
        self._rss_key = rss_key
        self._start_over()

    @property
    def num_queue_pairs(self) -> int:
        """What its driver has; of what it was given as much as it can name.

        Before it has said what it can: what it was given.
        """
        if self.state is VfState.INITIAL:
            return self.given_queue_pairs
        return min(self.given_queue_pairs, self.max_queue_pairs)

    @property
    def max_queue_pairs(self) -> int:
        """The most queue pairs that REQUEST_QUEUES can get."""
        most = self.limits.max_queue_pairs
        can_name_all = Cap.LARGE_NUM_QPAIRS in self.config.caps
        return most if can_name_all else min(most, MAX_PLAIN_QUEUE_PAIRS)

    @property
    def is_large(self) -> bool:
        """Whether it has more queue pairs than RSS of a plain VF can use."""
        return self.num_queue_pairs > MAX_PLAIN_QUEUE_PAIRS

    @property
    def rss_lut_size(self) -> int:
        return RSS_LUT_SIZE_LARGE if self.is_large else RSS_LUT_SIZE

    @property
    def longest_frame(self) -> int:
        """The largest frame of the device, without FCS; the tag of a port VLAN takes its part, as
        in ice."""
        return self.limits.max_frame - (_TAG if self.policy.port_vlan else 0)

    @property
    def max_frame(self) -> int:
        """The largest frame that the host lets the VF receive."""
        allowed = self.policy.mtu + MTU_OVERHEAD - (_TAG if self.policy.port_vlan else 0)
        return min(self.longest_frame, allowed)

    def set_policy(self, policy: VfPolicy) -> bool:
        """What the host has decided; whether the VF has to be reset to take it.

        Such a reset is what tells the driver, in ice too: it asks for its resources anew.
        """
        before, self.policy = self.policy, policy
        if policy.mac != before.mac:
            self.default_mac = policy.mac
        return any(getattr(before, name) != getattr(policy, name) for name in _TOLD_BY_RESET)

    def reset(self) -> None:
        """Forget what the guest configured; its data path is stopped when this returns."""
        self.state = VfState.INITIAL
        self.config = self._initial_config()
        self.datapath.reset()
        self.push_defaults()

    def restart(self) -> None:
        """A reset that also forgets what resets keep: version, own address, queue pairs."""
        self._start_over()
        self.reset()

    def push_defaults(self) -> None:
        """Tell the data path the settings that no message has made."""
        self.datapath.set_rx_filter(self.config.rx_filter)
        self.datapath.set_rss(self.config.rss)
        self.datapath.set_flows(())
        self.datapath.set_vlan_offload(self.config.vlan_offload)
        self.datapath.set_tx_shaping(self.config.tx_shaping)

    def update(self, **changes: Any) -> None:
        """Replace fields of `config`; the data path knows already."""
        self.config = replace(self.config, **changes)

    def update_rx_filter(self, **changes: Any) -> None:
        """Replace fields of `config` and give the data path the filter that follows."""
        config = replace(self.config, **changes)
        if config.rx_filter != self.config.rx_filter:
            self.datapath.set_rx_filter(config.rx_filter)
        self.config = config

    def check_vsi(self, vsi_id: int) -> None:
        check(vsi_id == VSI_ID, f"vsi_id={vsi_id}, this VF has {VSI_ID}")

    def check_queue(self, index: int) -> None:
        count = self.num_queue_pairs
        check(index < count, f"queue_id={index}, this VF has {count} queue pairs")

    def check_bitmap(self, name: str, bitmap: int) -> None:
        """Every bit names a queue that the VF has, one of the first 16 as in ice."""
        count = min(self.num_queue_pairs, MAX_PLAIN_QUEUE_PAIRS)
        check(bitmap >> count == 0, f"{name}={bitmap:#x}, of {count} queue pairs")

    def _start_over(self) -> None:
        self.state = VfState.INITIAL
        self.version: tuple[int, int] | None = None
        self.default_mac = self.policy.mac
        self.given_queue_pairs = self.limits.num_queue_pairs
        self.config = self._initial_config()

    def _initial_config(self) -> VfConfig:
        mac = self.default_mac
        # The LUT is all 0, not spread as in ice: a VF that never writes it but enables fewer
        # queues than it was given (iPXE, VPP avf) must receive everything on queue 0.
        rss = RssConfig(key=self._rss_key, hena=HENA_SUPPORTED)
        return VfConfig(mac=mac, macs=frozenset({mac} if any(mac) else ()), rss=rss)


def check(holds: bool, fault: str) -> None:
    """Refuse the request with ERR_PARAM unless `holds`."""
    if not holds:
        raise VirtchnlError(fault)
