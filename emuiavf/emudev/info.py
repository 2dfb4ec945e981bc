"""What the parts of a device tell each other: frozen snapshots and the one sink interface.

The transport (`vfio_user/`) reads RegionInfo and IrqInfo; a device provider (`iavf/`) pushes
finished facts through `Sink`; a data-path provider receives them.  No layout and no protocol
here, only values.  Units: bytes for sizes, descriptors for `ring_len`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag
from typing import Protocol

from emuiavf.policy import TPID_8021Q


class ResetReason(Enum):
    """Who asked for the reset of a function."""

    CLIENT = "DEVICE_RESET"
    FLR = "function-level reset"
    DISCONNECT = "connection lost"


class DmaProt(IntFlag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class MmapArea:
    """A page-aligned part of a region that a client may map."""

    offset: int
    size: int


@dataclass(frozen=True)
class RegionInfo:
    """One region of a function; size 0 means that it does not exist.

    `fd` backs the mappable areas (file offset = `fd_offset` + offset in the region); it stays the
    device's, a transport duplicates what it sends.
    """

    size: int = 0
    readable: bool = True
    writable: bool = True
    areas: tuple[MmapArea, ...] = ()
    fd: int | None = None
    fd_offset: int = 0


@dataclass(frozen=True)
class DeviceDescription:
    """What a transport announces.  `regions[i]` and `irqs[i]` (a count) go by VFIO PCI index."""

    regions: tuple[RegionInfo, ...]
    irqs: tuple[int, ...]
    resettable: bool = True


@dataclass(frozen=True)
class MemRegion:
    """One DMA map of the client; `shared` is False when it came without a file descriptor."""

    iova: int
    size: int
    prot: DmaProt
    shared: bool


@dataclass(frozen=True)
class TxQueueConfig:
    index: int
    ring_len: int
    dma_ring_addr: int


@dataclass(frozen=True)
class RxQueueConfig:
    """`databuffer_size` is what one descriptor may receive, `max_pkt_size` excludes the FCS.

    `writeback` is the RXDID: the writeback format is a property of the ring.  `timestamps`: the
    time of each frame is written back too, where the format has room for it; a format that has
    words of headers there has none then.
    """

    index: int
    ring_len: int
    dma_ring_addr: int
    databuffer_size: int
    max_pkt_size: int
    writeback: int = 1
    keep_crc: bool = False
    timestamps: bool = False


@dataclass(frozen=True)
class VectorMap:
    """Replaces what `vector` serves: bitmaps of queues and the ITR index of each direction."""

    vector: int
    rx_queues: int
    tx_queues: int
    rx_itr: int
    tx_itr: int


def vlan_tag(vlan_id: int, tpid: int = TPID_8021Q) -> int:
    """A VLAN in a set of them: its id alone for TPID 0x8100, else with the TPID above it."""
    return vlan_id if tpid == TPID_8021Q else tpid << 16 | vlan_id


@dataclass(frozen=True)
class RxFilter:
    """Which frames a VF receives.  Broadcast always passes; `vlans` None = no VLAN pruning.

    With pruning, tagged frames pass only when their outermost tag is in `vlans` (see `vlan_tag`);
    untagged frames always do.  `promisc_unicast` lifts the VLAN pruning as well.
    """

    macs: frozenset[bytes] = frozenset()
    promisc_unicast: bool = False
    promisc_multicast: bool = False
    vlans: frozenset[int] | None = None


class FlowBase(IntEnum):
    """Where the offset of a `FlowWord` counts from; of a tag there is only its VLAN id."""

    FRAME = 0
    L3 = 1
    L4 = 2
    OUTER_TAG = 3
    INNER_TAG = 4


@dataclass(frozen=True)
class FlowWord:
    """Four bytes of a frame, most significant first, of which `mask` counts."""

    base: FlowBase
    offset: int = 0
    mask: int = 0xFFFF_FFFF


@dataclass(frozen=True)
class HashInput:
    """What is hashed, in this order: word i meets the key from its bit 32 * (i mod 12) on.

    `pairs` are words of which each is replaced by the XOR of both; one paired with itself has
    its two halves replaced by their XOR (ports).
    """

    words: tuple[FlowWord, ...]
    pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class RssConfig:
    """`hena` is the mask of packet classes that are hashed by addresses and, where a class has
    them, ports.

    `symmetric`: both addresses and both ports are replaced by their XOR before hashing.
    `inputs`: what else is hashed, by packet type (the classes of these are not in `hena`), with
    `xor` by the XOR of all words instead of Toeplitz.  What is not hashed goes to queue 0.
    """

    key: bytes = bytes(52)
    lut: bytes = bytes(64)
    hena: int = 0
    symmetric: bool = False
    inputs: Mapping[int, HashInput] = field(default_factory=dict)
    xor: bool = False


class FlowAction(IntEnum):
    """What becomes of a frame that a rule matches; PASS leaves its queue to RSS."""

    PASS = 0
    DROP = 1
    QUEUE = 2


@dataclass(frozen=True)
class FlowRule:
    """A frame whose packet type is in `ptypes` (None: any) and whose `words` have these `values`.

    `queue` is the first of 2^`region` queues, among which the low bits of the hash decide.
    `mark` is told with the frame.  Matches are counted by `id`, 0 to 127.
    """

    id: int
    ptypes: frozenset[int] | None
    words: tuple[FlowWord, ...]
    values: tuple[int, ...]
    action: FlowAction = FlowAction.PASS
    queue: int = 0
    region: int = 0
    mark: int | None = None


@dataclass(frozen=True)
class VlanOffload:
    """Which tags move between frames and descriptors.

    `strip_outer` is the TPID (0: none) of the outermost tag that moves into L2TAG2; with `strip`
    the first tag that is then left, if its TPID is 0x8100, moves into L2TAG1.  `insert_outer` is
    the TPID of tags inserted from L2TAG2 (0: 0x8100); `insert` are those of L2TAG1.
    """

    strip: bool = False
    insert: bool = False
    strip_outer: int = 0
    insert_outer: int = 0


DEFAULT_QUANTA = 1024
"""What `TxShaping.quanta` is of a queue that is not named: the usual turn."""


@dataclass(frozen=True)
class TxShaping:
    """How the guest wants its Tx queues to send, by their indexes.

    `peaks`: at most so many Kb/s (0 does not occur).  `quanta`: its turn among other queues is that
    part of the usual one which `quanta` is of DEFAULT_QUANTA; what is above it changes nothing.
    """

    peaks: Mapping[int, int] = field(default_factory=dict)
    quanta: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EthStats:
    """The twelve counters of virtchnl GET_STATS, in its order.  rx_bytes includes the FCS."""

    rx_bytes: int = 0
    rx_unicast: int = 0
    rx_multicast: int = 0
    rx_broadcast: int = 0
    rx_discards: int = 0
    rx_unknown_protocol: int = 0
    tx_bytes: int = 0
    tx_unicast: int = 0
    tx_multicast: int = 0
    tx_broadcast: int = 0
    tx_discards: int = 0
    tx_errors: int = 0


class Sink(Protocol):
    """The one interface by which a device provider tells a data path what is true now.

    Calls come from the control thread only.  `disable_queues`, `reset`, `set_bus_master(False)`,
    `memory_changed` and `set_irqs` return when no worker can still use what they took away.
    """

    def configure_tx(self, queue: TxQueueConfig) -> None: ...
    def configure_rx(self, queue: RxQueueConfig) -> None: ...
    def enable_queues(self, rx: int, tx: int) -> None: ...
    def disable_queues(self, rx: int, tx: int) -> None: ...
    def map_vectors(self, maps: Sequence[VectorMap]) -> None: ...
    def set_irqs(self, eventfds: Mapping[int, int | None]) -> None: ...
    def set_rx_filter(self, rx_filter: RxFilter) -> None: ...
    def set_rss(self, rss: RssConfig) -> None: ...
    def set_flows(self, rules: Sequence[FlowRule]) -> None: ...
    def set_vlan_offload(self, vlan: VlanOffload) -> None: ...
    def set_tx_shaping(self, shaping: TxShaping) -> None: ...
    def set_bus_master(self, enabled: bool) -> None: ...
    def memory_changed(self) -> None: ...
    def reset(self) -> None: ...


@dataclass(frozen=True)
class DeviceInfo:
    """`info()` of a device: what it is and how large its tables are."""

    name: str
    model: str
    num_queue_pairs: int
    max_queue_pairs: int
    num_vectors: int
    attrs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceConf:
    """What the host decides about a device before it is started.

    `num_queue_pairs` None keeps what the device was created with.
    """

    num_queue_pairs: int | None = None
    attrs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class QueueInfo:
    """`queue_info(i)`: both directions of queue pair i; None where not configured."""

    tx: TxQueueConfig | None = None
    rx: RxQueueConfig | None = None
    tx_enabled: bool = False
    rx_enabled: bool = False


@dataclass(frozen=True)
class IrqInfo:
    """`irq_info(vector)`: its eventfd (the provider's, None when the client gave none) and map."""

    vector: int
    eventfd: int | None = None
    map: VectorMap | None = None


@dataclass(frozen=True)
class DoorbellInfo:
    """`doorbell_info(i)`: where the tails of queue pair i stand.

    Both words are in the region `region` of `map_region`.  With `polled` the guest writes them
    without telling anybody; without it `fd` is an eventfd that is written after each change.
    """

    region: str
    tx_offset: int
    rx_offset: int
    polled: bool
    fd: int | None = None
