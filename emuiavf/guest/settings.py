"""What a VF asks its PF for beside queues, kept so that it can be asked for again after a reset."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from emuiavf.errors import EmuIavfError
from emuiavf.guest.channel import Virtchnl
from emuiavf.virtchnl.messages import (
    EtherAddr,
    EtherAddrList,
    FdirAdd,
    FdirDel,
    PromiscInfo,
    ProtoHdr,
    RssCfg,
    RssHena,
    RssHfunc,
    RssKey,
    RssLut,
    VlanFilter,
    VlanFilterList,
    VlanId,
    VlanIdList,
    VlanSetting,
)
from emuiavf.virtchnl.ops import EtherAddrType, FdirStatus, HashFunc, Op, Promisc, VlanSupport

TPID = 0x8100
_TPID_BITS = {
    0: VlanSupport.NONE,
    0x8100: VlanSupport.TPID_8100,
    0x88A8: VlanSupport.TPID_88A8,
    0x9100: VlanSupport.TPID_9100,
}
_STRIP = {True: Op.ENABLE_VLAN_STRIPPING_V2, False: Op.DISABLE_VLAN_STRIPPING_V2}
_INSERT = {True: Op.ENABLE_VLAN_INSERTION_V2, False: Op.DISABLE_VLAN_INSERTION_V2}
_VERSION_1 = {Op.ADD_VLAN_V2: Op.ADD_VLAN, Op.DEL_VLAN_V2: Op.DEL_VLAN}


class FlowRefused(EmuIavfError):
    """The PF has understood a rule and does not make or remove it; `status` says why."""

    def __init__(self, status: FdirStatus) -> None:
        super().__init__(status.name)
        self.status = status


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
    vlans: set[tuple[int, int]] = field(default_factory=set)
    promisc: Promisc = Promisc.NONE
    rss: Rss | None = None
    rss_cfgs: list[tuple[Op, RssCfg]] = field(default_factory=list)
    strip: bool = False
    insert: bool = False
    strip_outer: int = 0
    insert_outer: int = 0
    vlan_version: int = 2

    def add_macs(self, *macs: bytes) -> None:
        """Receive frames to these addresses, unicast or multicast."""
        self._mac_request(Op.ADD_ETH_ADDR, macs)
        self.macs.update(macs)

    def remove_macs(self, *macs: bytes) -> None:
        self._mac_request(Op.DEL_ETH_ADDR, macs)
        self.macs.difference_update(macs)

    def add_vlans(self, *vlans: int, tpid: int = TPID) -> None:
        """Receive these VLANs; the first one ends the reception of all others."""
        named = [(vlan, tpid) for vlan in vlans]
        self._vlan_request(Op.ADD_VLAN_V2, named)
        self.vlans.update(named)

    def remove_vlans(self, *vlans: int, tpid: int = TPID) -> None:
        named = [(vlan, tpid) for vlan in vlans]
        self._vlan_request(Op.DEL_VLAN_V2, named)
        self.vlans.difference_update(named)

    def set_promiscuous(self, *, unicast: bool, multicast: bool) -> None:
        flags = Promisc.UNICAST if unicast else Promisc.NONE
        flags |= Promisc.MULTICAST if multicast else Promisc.NONE
        self.channel.request(Op.CONFIG_PROMISCUOUS_MODE, PromiscInfo(self.vsi_id, flags))
        self.promisc = flags

    def set_vlan_strip(self, enabled: bool) -> None:
        """Move the (inner) tag of received frames into the descriptor."""
        if self.vlan_version == 1:
            self.channel.request(Op.ENABLE_VLAN_STRIPPING if enabled else Op.DISABLE_VLAN_STRIPPING)
        else:
            self._vlan_setting(_STRIP[enabled], inner=TPID)
        self.strip = enabled

    def set_outer_strip(self, tpid: int) -> None:
        """Move the outermost tag, of this TPID (0: of none), into the second L2TAG2."""
        self._vlan_setting(_STRIP[tpid != 0], outer=tpid or self.strip_outer or TPID)
        self.strip_outer = tpid

    def set_vlan_insert(self, enabled: bool) -> None:
        """Allow tags to be inserted on request of a descriptor."""
        self._vlan_setting(_INSERT[enabled], inner=TPID)
        self.insert = enabled

    def set_outer_insert(self, tpid: int) -> None:
        """Outer tags on request of a descriptor have this TPID (0: they are not allowed)."""
        self._vlan_setting(_INSERT[tpid != 0], outer=tpid or self.insert_outer or TPID)
        self.insert_outer = tpid

    def set_rss(self, key: bytes, lut: bytes, hena: int) -> None:
        """Hash key, queue table and the packet classes that are hashed."""
        self.channel.request(Op.CONFIG_RSS_KEY, RssKey(self.vsi_id), key)
        self.channel.request(Op.CONFIG_RSS_LUT, RssLut(self.vsi_id), lut)
        self.channel.request(Op.SET_RSS_HENA, RssHena(hena))
        self.rss = Rss(key, lut, hena)
        self.rss_cfgs.clear()

    def add_rss_cfg(
        self, headers: Sequence[ProtoHdr], algorithm: HashFunc = HashFunc.TOEPLITZ
    ) -> None:
        """Hash packets with these headers by the fields that they select."""
        self._rss_cfg(Op.ADD_RSS_CFG, RssCfg.of(headers, algorithm))

    def remove_rss_cfg(
        self, headers: Sequence[ProtoHdr], algorithm: HashFunc = HashFunc.TOEPLITZ
    ) -> None:
        self._rss_cfg(Op.DEL_RSS_CFG, RssCfg.of(headers, algorithm))

    def add_flow(self, rule: FdirAdd) -> int:
        """A flow director rule; returns its id.  FlowRefused when the PF does not make it.

        A reset ends it.
        """
        body = self.channel.request(Op.ADD_FDIR_FILTER, replace(rule, vsi_id=self.vsi_id))
        answer = FdirAdd.decode(body)
        if answer.status != FdirStatus.SUCCESS:
            raise FlowRefused(FdirStatus(answer.status))
        return answer.flow_id

    def remove_flow(self, flow_id: int) -> None:
        body = self.channel.request(Op.DEL_FDIR_FILTER, FdirDel(self.vsi_id, flow_id))
        if status := FdirDel.decode(body).status:
            raise FlowRefused(FdirStatus(status))

    def set_hash_function(self, algorithm: HashFunc) -> None:
        """One function for all that is hashed.  A reset ends it."""
        self.channel.request(Op.CONFIG_RSS_HFUNC, RssHfunc(self.vsi_id, algorithm))

    def replay(self) -> None:
        """Ask for all of it again, after a reset has made the PF forget."""
        if self.rss is not None:
            said, self.rss_cfgs = self.rss_cfgs, []
            self.set_rss(self.rss.key, self.rss.lut, self.rss.hena)
            for op, cfg in said:
                self._rss_cfg(op, cfg)
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
        if self.strip_outer:
            self.set_outer_strip(self.strip_outer)
        if self.insert_outer:
            self.set_outer_insert(self.insert_outer)

    def _rss_cfg(self, op: Op, cfg: RssCfg) -> None:
        self.channel.request(op, cfg)
        self.rss_cfgs.append((op, cfg))

    def _mac_request(self, op: Op, macs: tuple[bytes, ...]) -> None:
        items = [EtherAddr(mac, EtherAddrType.EXTRA) for mac in macs]
        self.channel.request(op, EtherAddrList(self.vsi_id), items)

    def _vlan_request(self, op: Op, vlans: Sequence[tuple[int, int]]) -> None:
        if self.vlan_version == 1:
            ids = [VlanId(vlan) for vlan, _ in vlans]
            self.channel.request(_VERSION_1[op], VlanIdList(self.vsi_id), ids)
            return
        items = [VlanFilter(0, 0, 0, vlan, 0, tpid) for vlan, tpid in vlans]
        self.channel.request(op, VlanFilterList(self.vsi_id), items)

    def _vlan_setting(self, op: Op, *, outer: int = 0, inner: int = 0) -> None:
        setting = VlanSetting(_TPID_BITS[outer], _TPID_BITS[inner], self.vsi_id)
        self.channel.request(op, setting)
