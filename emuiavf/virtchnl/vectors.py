"""Which vector serves which queue: CONFIG_IRQ_MAP, and MAP_QUEUE_VECTOR of a large VF."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from emuiavf.emudev.info import VectorMap
from emuiavf.virtchnl.messages import Listing, QueueVector, VectorEntry
from emuiavf.virtchnl.ops import ITR_NONE, QueueType
from emuiavf.virtchnl.state import Vf, check


@dataclass
class _Served:
    """What one vector serves, while a message is being worked out."""

    rx: int = 0
    tx: int = 0
    rx_itr: int = ITR_NONE
    tx_itr: int = ITR_NONE

    def as_map(self, vector: int) -> VectorMap:
        return VectorMap(vector, self.rx, self.tx, self.rx_itr, self.tx_itr)


def on_config_irq_map(vf: Vf, msg: Listing) -> bytes:
    """CONFIG_IRQ_MAP: replace what the listed vectors serve.

    Vector 0 is allowed: Linux and FreeBSD name it with empty maps, DPDK without WB_ON_ITR with
    queues.  A queue has one vector: naming it here takes it away from the one that had it.
    """
    entries: tuple[VectorEntry, ...] = msg.items
    limit = vf.limits.num_vectors
    check(len(entries) <= limit, f"num_vectors={len(entries)}, at most {limit}")
    for entry in entries:
        vf.check_vsi(entry.vsi_id)
        _check_vector(vf, entry.vector_id)
        vf.check_bitmap("rxq_map", entry.rxq_map)
        vf.check_bitmap("txq_map", entry.txq_map)
        _check_itr(max(entry.rxitr_idx, entry.txitr_idx))
    served = _present(vf)
    for entry in entries:
        for one in served.values():
            one.rx &= ~entry.rxq_map
            one.tx &= ~entry.txq_map
        served[entry.vector_id] = _Served(
            entry.rxq_map, entry.txq_map, entry.rxitr_idx, entry.txitr_idx
        )
    _apply(vf, served, {entry.vector_id for entry in entries})
    return b""


def on_map_queue_vector(vf: Vf, msg: Listing) -> bytes:
    """MAP_QUEUE_VECTOR: each queue leaves the vector that it had; what is not named stays.

    A vector has one interval a direction, as with CONFIG_IRQ_MAP: of several the last one counts.
    """
    entries: tuple[QueueVector, ...] = msg.items
    vf.check_vsi(msg.head.vport_id)
    for entry in entries:
        vf.check_queue(entry.queue_id)
        _check_vector(vf, entry.vector_id)
        check(entry.queue_type in list(QueueType), f"queue_type={entry.queue_type}")
        _check_itr(entry.itr_idx)
    served = _present(vf)
    owners = {(entry.queue_type, entry.queue_id): entry.vector_id for entry in entries}
    rx = sum(1 << queue for kind, queue in owners if kind == QueueType.RX)
    tx = sum(1 << queue for kind, queue in owners if kind == QueueType.TX)
    for one in served.values():
        one.rx &= ~rx
        one.tx &= ~tx
    for entry in entries:
        one = served.setdefault(entry.vector_id, _Served())
        if entry.queue_type == QueueType.RX:
            one.rx_itr = entry.itr_idx
        else:
            one.tx_itr = entry.itr_idx
    for (kind, queue), vector in owners.items():
        if kind == QueueType.RX:
            served[vector].rx |= 1 << queue
        else:
            served[vector].tx |= 1 << queue
    _apply(vf, served)
    return b""


def _check_vector(vf: Vf, vector: int) -> None:
    limit = vf.limits.num_vectors
    check(vector < limit, f"vector_id={vector}, this VF has {limit} vectors")


def _check_itr(index: int) -> None:
    check(0 <= index <= ITR_NONE, f"ITR index {index}, 0 to {ITR_NONE}")


def _present(vf: Vf) -> dict[int, _Served]:
    return {
        vector: _Served(old.rx_queues, old.tx_queues, old.rx_itr, old.tx_itr)
        for vector, old in vf.config.vectors.items()
    }


def _apply(vf: Vf, served: Mapping[int, _Served], listed: Iterable[int] = ()) -> None:
    """Tell the data path of vectors that are `listed` or serve something else than before."""
    vectors = {vector: one.as_map(vector) for vector, one in served.items()}
    before = vf.config.vectors
    vf.datapath.map_vectors([m for v, m in vectors.items() if v in listed or m != before.get(v)])
    vf.update(vectors=vectors)
