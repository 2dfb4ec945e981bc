"""A guest on a virtchnl session without a device between them, and a data path that objects."""

from collections.abc import Sequence
from typing import Any

from emuiavf.emudev.info import EthStats, RxQueueConfig, TxQueueConfig, VectorMap
from emuiavf.layout import Wire
from emuiavf.policy import VfPolicy
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from emuiavf.virtchnl.session import RULES, Reply, ResetRequest, Session, VfLimits
from tests.fakes.sink import RecordingSink

MAC = bytes.fromhex("525400123456")
OTHER_MAC = bytes.fromhex("525400abcdef")
ALL_CAPS = 0xFFFF_FFFF
POLICY = VfPolicy(mac=MAC)
LIMITS = VfLimits(num_queue_pairs=4, max_queue_pairs=32, num_vectors=17)


class FakeDatapath(RecordingSink):
    """Records each call and fails on one that no data path should ever see."""

    def __init__(self, num_vectors: int = 17) -> None:
        super().__init__()
        self.stats = EthStats()
        self.phc = 0
        self.num_vectors = num_vectors
        self._clear()

    def eth_stats(self) -> EthStats:
        return self.stats

    def phc_ns(self) -> int:
        return self.phc

    def configure_tx(self, queue: TxQueueConfig) -> None:
        self._record("configure_tx", queue)
        assert not self.tx_enabled >> queue.index & 1, "configured while running"
        self.tx[queue.index] = queue

    def configure_rx(self, queue: RxQueueConfig) -> None:
        self._record("configure_rx", queue)
        assert not self.rx_enabled >> queue.index & 1, "configured while running"
        assert queue.databuffer_size % 128 == 0
        self.rx[queue.index] = queue

    def enable_queues(self, rx: int, tx: int) -> None:
        self._record("enable_queues", rx, tx)
        assert (rx & self.rx_enabled, tx & self.tx_enabled) == (0, 0), "enabled twice"
        assert all(index in self.rx for index in range(256) if rx >> index & 1)
        assert all(index in self.tx for index in range(256) if tx >> index & 1)
        self.rx_enabled |= rx
        self.tx_enabled |= tx

    def disable_queues(self, rx: int, tx: int) -> None:
        self._record("disable_queues", rx, tx)
        assert (rx & ~self.rx_enabled, tx & ~self.tx_enabled) == (0, 0), "did not run"
        self.rx_enabled &= ~rx
        self.tx_enabled &= ~tx

    def map_vectors(self, maps: Sequence[VectorMap]) -> None:
        self._record("map_vectors", tuple(maps))
        for entry in maps:
            assert entry.vector < self.num_vectors
            self.vectors[entry.vector] = entry
        for name in ("rx_queues", "tx_queues"):
            served = [getattr(entry, name) for entry in self.vectors.values()]
            assert sum(served) == _union(served), "a queue on two vectors"

    def reset(self) -> None:
        self._record("reset")
        self._clear()

    def last(self, name: str) -> Any:
        """The argument of the latest call of that name."""
        return next(call[1] for call in reversed(self.calls) if call[0] == name)

    def _record(self, name: str, *args: Any) -> None:
        self.__getattr__(name)(*args)

    def _clear(self) -> None:
        self.tx: dict[int, TxQueueConfig] = {}
        self.rx: dict[int, RxQueueConfig] = {}
        self.vectors: dict[int, VectorMap] = {}
        self.rx_enabled = self.tx_enabled = 0


class FakeVf:
    """The driver's end: sends requests, takes the answer apart, resets when told to."""

    def __init__(self, policy: VfPolicy = POLICY, limits: VfLimits = LIMITS) -> None:
        self.datapath = FakeDatapath(limits.num_vectors)
        self.session = Session(policy, limits, self.datapath, rss_key=bytes(range(52)))

    def post(
        self, op: int, head: Wire | None = None, items: Sequence[Wire] | bytes = ()
    ) -> list[Reply | ResetRequest]:
        """Everything that comes back for one request, padded as real drivers do."""
        return self.session.handle(op, m.encode(Op(op), head, items))

    def send(self, op: int, head: Wire | None = None, items: Sequence[Wire] | bytes = ()) -> Reply:
        """The answer to one request, which must be the first thing to come back."""
        answer = self.post(op, head, items)[0]
        assert isinstance(answer, Reply)
        assert answer.opcode == op
        return answer

    def status(
        self, op: int, head: Wire | None = None, items: Sequence[Wire] | bytes = ()
    ) -> Status:
        return self.send(op, head, items).status

    def bring_up(self, caps: int = ALL_CAPS) -> "FakeVf":
        """VERSION and GET_VF_RESOURCES; what the data path heard so far is forgotten."""
        assert self.status(Op.VERSION, m.Version(1, 1)) == Status.SUCCESS
        assert self.status(Op.GET_VF_RESOURCES, m.CapRequest(caps)) == Status.SUCCESS
        self.datapath.calls.clear()
        return self

    def resources(self, caps: int = ALL_CAPS) -> m.VfResources:
        return m.VfResources.decode(self.send(Op.GET_VF_RESOURCES, m.CapRequest(caps)).body)

    def configure(self, *indexes: int) -> "FakeVf":
        """CONFIG_VSI_QUEUES of these pairs; what the data path heard is forgotten."""
        pairs = [pair(index) for index in indexes]
        assert self.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), pairs) == Status.SUCCESS
        self.datapath.calls.clear()
        return self

    def snapshot(self) -> tuple[Any, ...]:
        """All that a refused message must leave as it is."""
        vf = self.session.vf
        facts = (vf.state, vf.version, vf.default_mac, vf.num_queue_pairs, vf.link, vf.config)
        return (*facts, tuple(self.datapath.calls))


def pair(index: int, **changes: Any) -> m.QueuePair:
    """A valid queue pair of CONFIG_VSI_QUEUES: 512 descriptors each way, 2048-byte buffers."""
    fields = {
        "tx_vsi_id": 1,
        "tx_queue_id": index,
        "tx_ring_len": 512,
        "tx_headwb_enabled": 0,
        "tx_dma_ring_addr": 0x10_0000 + index * 0x1_0000,
        "tx_dma_headwb_addr": 0,
        "rx_vsi_id": 1,
        "rx_queue_id": index,
        "rx_ring_len": 512,
        "rx_hdr_size": 0,
        "rx_splithdr_enabled": 0,
        "rx_databuffer_size": 2048,
        "rx_max_pkt_size": 1522,
        "rx_crc_disable": 0,
        "rx_rxdid": 1,
        "rx_flags": 0,
        "rx_dma_ring_addr": 0x80_0000 + index * 0x1_0000,
        "rx_split_pos": 0,
    }
    return m.QueuePair(**{**fields, **changes})


def caps_for(op: Op) -> int:
    """Capabilities to ask for so that `op` is served: VLAN is not granted beside VLAN_V2."""
    return ALL_CAPS & ~Cap.VLAN_V2 if RULES[op].needs is Cap.VLAN else ALL_CAPS


def valid_requests() -> dict[Op, tuple[Wire | None, Sequence[Wire] | bytes]]:
    """For each opcode of RULES a request that an active VF with all capabilities may send."""
    queues = m.QueueSelect(1, 1, 1)
    address = (m.EtherAddrList(1), (m.EtherAddr(OTHER_MAC, 2),))
    vlan = (m.VlanFilterList(1), (m.VlanFilter(0, 0, 0, 100, 0, 0x8100),))
    vlan_id = (m.VlanIdList(1), (m.VlanId(100),))
    setting = (m.VlanSetting(0, 1, 1), ())
    chunks = (m.QueueChunkList(1), (m.QueueChunk(0, 0, 1), m.QueueChunk(1, 0, 1)))
    return {
        Op.VERSION: (m.Version(1, 1), ()),
        Op.RESET_VF: (None, ()),
        Op.GET_VF_RESOURCES: (m.CapRequest(ALL_CAPS), ()),
        Op.REQUEST_QUEUES: (m.QueueRequest(2), ()),
        Op.CONFIG_VSI_QUEUES: (m.VsiQueueConfig(1), (pair(0),)),
        Op.CONFIG_IRQ_MAP: (m.IrqMap(), (m.VectorEntry(1, 1, 1, 1, 0, 1),)),
        Op.ENABLE_QUEUES: (queues, ()),
        Op.DISABLE_QUEUES: (queues, ()),
        Op.GET_STATS: (queues, ()),
        Op.ADD_ETH_ADDR: address,
        Op.DEL_ETH_ADDR: address,
        Op.CONFIG_PROMISCUOUS_MODE: (m.PromiscInfo(1, 3), ()),
        Op.CONFIG_RSS_KEY: (m.RssKey(1), bytes(52)),
        Op.CONFIG_RSS_LUT: (m.RssLut(1), bytes(64)),
        Op.GET_RSS_HENA_CAPS: (None, ()),
        Op.GET_SUPPORTED_RXDIDS: (None, ()),
        Op.PTP_GET_CAPS: (m.PtpCaps(6), ()),
        Op.PTP_GET_TIME: (m.PhcTime(), ()),
        Op.SET_RSS_HENA: (m.RssHena(0), ()),
        Op.CONFIG_RSS_HFUNC: (m.RssHfunc(1, 0), ()),
        Op.ADD_RSS_CFG: (m.RssCfg.of([m.ProtoHdr(4, 3), m.ProtoHdr(6, 1)]), ()),
        Op.DEL_RSS_CFG: (m.RssCfg.of([m.ProtoHdr(4, 3), m.ProtoHdr(6, 1)]), ()),
        Op.ADD_FDIR_FILTER: (_a_rule(), ()),
        Op.DEL_FDIR_FILTER: (m.FdirDel(1, 0), ()),
        Op.ADD_VLAN: vlan_id,
        Op.DEL_VLAN: vlan_id,
        Op.ENABLE_VLAN_STRIPPING: (None, ()),
        Op.DISABLE_VLAN_STRIPPING: (None, ()),
        Op.GET_OFFLOAD_VLAN_V2_CAPS: (None, ()),
        Op.ADD_VLAN_V2: vlan,
        Op.DEL_VLAN_V2: vlan,
        Op.ENABLE_VLAN_STRIPPING_V2: setting,
        Op.DISABLE_VLAN_STRIPPING_V2: setting,
        Op.ENABLE_VLAN_INSERTION_V2: setting,
        Op.DISABLE_VLAN_INSERTION_V2: setting,
        Op.GET_QOS_CAPS: (None, ()),
        Op.CONFIG_QUEUE_TC_MAP: (m.QueueTcMap(1, 1, 4), (m.TcQueues(0, 4),)),
        Op.CONFIG_QUEUE_BW: (m.QueueBwList(1), (m.QueueBw(1, 0, 0, 20_000),)),
        Op.CONFIG_QUANTA: (m.QuantaConfig(512, 0, 0, 2), ()),
        Op.GET_MAX_RSS_QREGION: (None, ()),
        Op.ENABLE_QUEUES_V2: chunks,
        Op.DISABLE_QUEUES_V2: chunks,
        Op.MAP_QUEUE_VECTOR: (
            m.QueueVectorList(1),
            (m.QueueVector(0, 1, 0, 1), m.QueueVector(0, 2, 1, 0)),
        ),
    }


def _a_rule() -> m.FdirAdd:
    """TCP to port 80 goes to queue 1."""
    headers = [m.ProtoHdr(4, 0, bytes(64)), m.ProtoHdr(6, 2, b"\0\0\0\x50" + bytes(60))]
    return m.FdirAdd.of(headers, [m.FilterAction(3, 1)], vsi_id=1)


def _union(bitmaps: Sequence[int]) -> int:
    bits = 0
    for bitmap in bitmaps:
        bits |= bitmap
    return bits
