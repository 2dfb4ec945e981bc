"""Rings: CONFIG_VSI_QUEUES, and ENABLE_QUEUES and DISABLE_QUEUES in both their forms.

The first form names 16 queues in bitmaps, the second (V2) rows of them, of a large VF's 256.
"""

from collections.abc import Iterable

from emuiavf._rxdid import Rxdid
from emuiavf.emudev.info import RxQueueConfig, TxQueueConfig
from emuiavf.virtchnl.messages import (
    Listing,
    MaxRssQregion,
    QueueChunk,
    QueuePair,
    QueueSelect,
    SupportedRxdids,
)
from emuiavf.virtchnl.ops import Cap, QueueType, RxqFlag
from emuiavf.virtchnl.state import MAX_PLAIN_QUEUE_PAIRS, VSI_ID, Vf, VfConfig, check

RING_LENS = range(32, 8160 + 1, 32)
"""Ring lengths in descriptors.  ice wants 64 at least; VPP may send 32."""

DATABUFFER_UNIT = 128
DATABUFFER_SIZES = range(128, 16256 + 1)
DEFAULT_DATABUFFER_SIZE = 2048
MIN_FRAME = 64

LARGE_QREGION = 64
"""Queues that RSS of ice can use for a VF with more than 16."""


def on_config_vsi_queues(vf: Vf, msg: Listing) -> bytes:
    """CONFIG_VSI_QUEUES: lay down the rings of the named queues; running ones stop first.

    A half with ring_len 0 is left as it is, and nothing else of it is looked at.
    """
    pairs: tuple[QueuePair, ...] = msg.items
    vf.check_vsi(msg.head.vsi_id)
    check(len({pair.tx_queue_id for pair in pairs}) == len(pairs), "a queue pair comes twice")
    for pair in pairs:
        _check_pair(vf, pair)
    tx = {pair.tx_queue_id: _tx_config(pair) for pair in pairs if pair.tx_ring_len}
    rx = {pair.rx_queue_id: _rx_config(vf, pair) for pair in pairs if pair.rx_ring_len}
    _stop(vf, rx=_bitmap(rx), tx=_bitmap(tx))
    for tx_queue in tx.values():
        vf.datapath.configure_tx(tx_queue)
    for rx_queue in rx.values():
        vf.datapath.configure_rx(rx_queue)
    vf.update(
        tx={**vf.config.tx, **tx},
        rx={**vf.config.rx, **rx},
        tx_stopped=vf.config.tx_stopped & ~_bitmap(tx),
        rx_stopped=vf.config.rx_stopped & ~_bitmap(rx),
    )
    return b""


def on_enable_queues(vf: Vf, msg: QueueSelect) -> bytes:
    """ENABLE_QUEUES: start every queue named; those that run already are skipped."""
    _check_select(vf, msg)
    _start(vf, rx=msg.rx_queues, tx=msg.tx_queues)
    return b""


def on_enable_queues_v2(vf: Vf, msg: Listing) -> bytes:
    """ENABLE_QUEUES_V2: as ENABLE_QUEUES."""
    rx, tx = _named(vf, msg)
    _start(vf, rx=rx, tx=tx)
    return b""


def on_disable_queues(vf: Vf, msg: QueueSelect) -> bytes:
    """DISABLE_QUEUES: no DMA of the named queues any more; those not running are skipped.

    FreeBSD disables before it configures anything, and every driver frees memory on the reply.
    """
    _check_select(vf, msg)
    _stop(vf, rx=msg.rx_queues, tx=msg.tx_queues)
    return b""


def on_disable_queues_v2(vf: Vf, msg: Listing) -> bytes:
    """DISABLE_QUEUES_V2: as DISABLE_QUEUES."""
    rx, tx = _named(vf, msg)
    _stop(vf, rx=rx, tx=tx)
    return b""


def on_get_max_rss_qregion(vf: Vf, msg: None) -> bytes:
    """GET_MAX_RSS_QREGION: 16 or 64 queues as in ice, and all of a VF that has more."""
    widest = max(MAX_PLAIN_QUEUE_PAIRS, vf.num_queue_pairs, LARGE_QREGION if vf.is_large else 0)
    return MaxRssQregion(VSI_ID, (widest - 1).bit_length()).encode()


def on_get_supported_rxdids(vf: Vf, msg: None) -> bytes:
    """GET_SUPPORTED_RXDIDS: exactly what CONFIG_VSI_QUEUES takes."""
    return SupportedRxdids(_bitmap(Rxdid)).encode()


def _check_pair(vf: Vf, pair: QueuePair) -> None:
    vf.check_vsi(pair.tx_vsi_id)
    vf.check_vsi(pair.rx_vsi_id)
    queue = pair.tx_queue_id
    vf.check_queue(queue)
    check(pair.rx_queue_id == queue, f"queue_id={queue} for Tx, {pair.rx_queue_id} for Rx")
    if pair.tx_ring_len:
        check(pair.tx_ring_len in RING_LENS, f"Tx ring_len={pair.tx_ring_len}")
        check(pair.tx_headwb_enabled == 0, "headwb_enabled is not offered")
    if pair.rx_ring_len:
        _check_rx(vf, pair)


def _check_rx(vf: Vf, pair: QueuePair) -> None:
    size, frame = pair.rx_databuffer_size, pair.rx_max_pkt_size
    check(pair.rx_ring_len in RING_LENS, f"Rx ring_len={pair.rx_ring_len}")
    check(size == 0 or size in DATABUFFER_SIZES, f"databuffer_size={size}")
    check(MIN_FRAME <= frame <= vf.longest_frame, f"max_pkt_size={frame}")
    if pair.rx_crc_disable:
        offload = vf.config.vlan_offload
        check(Cap.CRC in vf.config.caps, "crc_disable needs the CRC capability")
        check(not (offload.strip or offload.strip_outer), "crc_disable with VLAN stripping")
    if Cap.RX_FLEX_DESC in vf.config.caps:
        check(pair.rx_rxdid in list(Rxdid), f"rxdid={pair.rx_rxdid} is not supported")


def _tx_config(pair: QueuePair) -> TxQueueConfig:
    return TxQueueConfig(pair.tx_queue_id, pair.tx_ring_len, pair.tx_dma_ring_addr)


def _rx_config(vf: Vf, pair: QueuePair) -> RxQueueConfig:
    """The Rx half; without RX_FLEX_DESC the RXDID sent counts for nothing and 1 is used.

    The host's MTU is not refused but kept: iavf of 6.1 asks for frames of 1536 bytes whatever it
    is told, and would not come back.
    """
    flexible = Cap.RX_FLEX_DESC in vf.config.caps
    size = pair.rx_databuffer_size or DEFAULT_DATABUFFER_SIZE
    return RxQueueConfig(
        pair.rx_queue_id,
        pair.rx_ring_len,
        pair.rx_dma_ring_addr,
        databuffer_size=size - size % DATABUFFER_UNIT,
        max_pkt_size=min(pair.rx_max_pkt_size, vf.max_frame),
        writeback=pair.rx_rxdid if flexible else Rxdid.LEGACY,
        keep_crc=bool(pair.rx_crc_disable),
        timestamps=_wants_timestamps(vf, pair),
    )


def _wants_timestamps(vf: Vf, pair: QueuePair) -> bool:
    """As in ice the flag counts for nothing without both capabilities."""
    both = Cap.PTP | Cap.RX_FLEX_DESC
    return both in vf.config.caps and bool(pair.rx_flags & RxqFlag.PTP_RX_TSTAMP)


def _check_select(vf: Vf, msg: QueueSelect) -> None:
    vf.check_vsi(msg.vsi_id)
    check(bool(msg.rx_queues | msg.tx_queues), "no queue named")
    vf.check_bitmap("rx_queues", msg.rx_queues)
    vf.check_bitmap("tx_queues", msg.tx_queues)


def _named(vf: Vf, msg: Listing) -> tuple[int, int]:
    """The Rx and the Tx queues of a list of chunks, as bitmaps; chunks may overlap."""
    vf.check_vsi(msg.head.vport_id)
    queues = {QueueType.RX: 0, QueueType.TX: 0}
    for chunk in msg.items:
        kind = _kind(vf, chunk)
        queues[kind] |= (1 << chunk.num_queues) - 1 << chunk.start_queue_id
    return queues[QueueType.RX], queues[QueueType.TX]


def _kind(vf: Vf, chunk: QueueChunk) -> QueueType:
    """What a chunk names, when it names queues of the VF."""
    check(chunk.type in list(QueueType), f"type={chunk.type}")
    check(chunk.num_queues > 0, "num_queues=0")
    vf.check_queue(chunk.start_queue_id + chunk.num_queues - 1)
    return QueueType(chunk.type)


def _start(vf: Vf, *, rx: int, tx: int) -> None:
    """Enable those of the queues that do not run; all must be configured.

    A queue that ran and was disabled starts over at its head: DPDK restarts single queues
    without configuring them again, and counts from descriptor 0.
    """
    config = vf.config
    for name, named, known in (("rx_queues", rx, config.rx), ("tx_queues", tx, config.tx)):
        missing = named & ~_bitmap(known)
        check(missing == 0, f"{name}: {missing:#x} not configured")
    rx, tx = rx & ~config.rx_enabled, tx & ~config.tx_enabled
    if rx or tx:
        _rewind(vf, config, rx & config.rx_stopped, tx & config.tx_stopped)
        vf.datapath.enable_queues(rx, tx)
    vf.update(
        rx_enabled=config.rx_enabled | rx,
        tx_enabled=config.tx_enabled | tx,
        rx_stopped=config.rx_stopped & ~rx,
        tx_stopped=config.tx_stopped & ~tx,
    )


def _stop(vf: Vf, *, rx: int, tx: int) -> None:
    """Disable those of the queues that run."""
    config = vf.config
    rx, tx = rx & config.rx_enabled, tx & config.tx_enabled
    if rx or tx:
        vf.datapath.disable_queues(rx, tx)
    vf.update(
        rx_enabled=config.rx_enabled & ~rx,
        tx_enabled=config.tx_enabled & ~tx,
        rx_stopped=config.rx_stopped | rx,
        tx_stopped=config.tx_stopped | tx,
    )


def _rewind(vf: Vf, config: VfConfig, rx: int, tx: int) -> None:
    for index, tx_queue in config.tx.items():
        if tx >> index & 1:
            vf.datapath.configure_tx(tx_queue)
    for index, rx_queue in config.rx.items():
        if rx >> index & 1:
            vf.datapath.configure_rx(rx_queue)


def _bitmap(queues: Iterable[int]) -> int:
    return sum(1 << index for index in set(queues))
