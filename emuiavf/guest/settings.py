"""What a VF asks its PF for beside queues, kept so that it can be asked for again after a reset."""

from dataclasses import dataclass, field

from emuiavf.guest.channel import Virtchnl
from emuiavf.virtchnl.messages import (
    EtherAddr,
    EtherAddrList,
    PromiscInfo,
    RssHena,
    RssKey,
    RssLut,
    VlanFilter,
    VlanFilterList,
    VlanSetting,
)
from emuiavf.virtchnl.ops import EtherAddrType, Op, Promisc, VlanSupport

TPID = 0x8100


@dataclass
class Rss:
    key: bytes
    lut: bytes
    hena: int


@dataclass
class Settings:
    """Filters and offloads of one VSI; each `set_*` or `add_*` is one request.

    RequestRefused leaves the record as it was.
    """

    channel: Virtchnl
    vsi_id: int = 0
    macs: set[bytes] = field(default_factory=set)
    vlans: set[int] = field(default_factory=set)
    promisc: Promisc = Promisc.NONE
    rss: Rss | None = None
    strip: bool = False
    insert: bool = False

    def add_macs(self, *macs: bytes) -> None:
        """Receive frames to these addresses, unicast or multicast."""
        self._mac_request(Op.ADD_ETH_ADDR, macs)
        self.macs.update(macs)

    def remove_macs(self, *macs: bytes) -> None:
        self._mac_request(Op.DEL_ETH_ADDR, macs)
        self.macs.difference_update(macs)

    def add_vlans(self, *vlans: int) -> None:
        """Receive these VLANs; the first one ends the reception of all others."""
        self._vlan_request(Op.ADD_VLAN_V2, vlans)
        self.vlans.update(vlans)

    def remove_vlans(self, *vlans: int) -> None:
        self._vlan_request(Op.DEL_VLAN_V2, vlans)
        self.vlans.difference_update(vlans)

    def set_promiscuous(self, *, unicast: bool, multicast: bool) -> None:
        flags = Promisc.UNICAST if unicast else Promisc.NONE
        flags |= Promisc.MULTICAST if multicast else Promisc.NONE
        self.channel.request(Op.CONFIG_PROMISCUOUS_MODE, PromiscInfo(self.vsi_id, flags))
        self.promisc = flags

    def set_vlan_strip(self, enabled: bool) -> None:
        """Move the tag of received frames into the descriptor."""
        op = Op.ENABLE_VLAN_STRIPPING_V2 if enabled else Op.DISABLE_VLAN_STRIPPING_V2
        self.channel.request(op, VlanSetting(0, VlanSupport.TPID_8100, self.vsi_id))
        self.strip = enabled

    def set_vlan_insert(self, enabled: bool) -> None:
        """Allow tags to be inserted on request of a descriptor."""
        op = Op.ENABLE_VLAN_INSERTION_V2 if enabled else Op.DISABLE_VLAN_INSERTION_V2
        self.channel.request(op, VlanSetting(0, VlanSupport.TPID_8100, self.vsi_id))
        self.insert = enabled

    def set_rss(self, key: bytes, lut: bytes, hena: int) -> None:
        """Hash key, queue table and the packet classes that are hashed."""
        self.channel.request(Op.CONFIG_RSS_KEY, RssKey(self.vsi_id), key)
        self.channel.request(Op.CONFIG_RSS_LUT, RssLut(self.vsi_id), lut)
        self.channel.request(Op.SET_RSS_HENA, RssHena(hena))
        self.rss = Rss(key, lut, hena)

    def replay(self) -> None:
        """Ask for all of it again, after a reset has made the PF forget."""
        if self.rss is not None:
            self.set_rss(self.rss.key, self.rss.lut, self.rss.hena)
        if self.macs:
            self._mac_request(Op.ADD_ETH_ADDR, tuple(self.macs))
        if self.vlans:
            self._vlan_request(Op.ADD_VLAN_V2, tuple(self.vlans))
        if self.promisc:
            self.channel.request(Op.CONFIG_PROMISCUOUS_MODE, PromiscInfo(self.vsi_id, self.promisc))
        if self.strip:
            self.set_vlan_strip(True)
        if self.insert:
            self.set_vlan_insert(True)

    def _mac_request(self, op: Op, macs: tuple[bytes, ...]) -> None:
        items = [EtherAddr(mac, EtherAddrType.EXTRA) for mac in macs]
        self.channel.request(op, EtherAddrList(self.vsi_id), items)

    def _vlan_request(self, op: Op, vlans: tuple[int, ...]) -> None:
        items = [VlanFilter(inner_tci=vlan, inner_tci_mask=0, inner_tpid=TPID) for vlan in vlans]
        self.channel.request(op, VlanFilterList(self.vsi_id), items)
