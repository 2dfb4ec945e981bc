"""What is asked of the PF about queues, in the form that their number needs.

More than 16 queue pairs are beyond the bitmaps of virtchnl's first messages: from there on queues
are named in rows (chunks), and their vectors one by one.
"""

from collections.abc import Iterable, Sequence

from emuiavf.guest.channel import Virtchnl
from emuiavf.guest.queues import QueuePair
from emuiavf.virtchnl.messages import (
    IrqMap,
    QueueChunk,
    QueueChunkList,
    QueueSelect,
    QueueVector,
    QueueVectorList,
    VectorEntry,
    VfResources,
    VsiQueueConfig,
)
from emuiavf.virtchnl.ops import ITR_NONE, Op, QueueType

NAMED_BY_BITMAPS = 16
# As many as DPDK puts into one message.
_PAIRS_AT_ONCE = 32
_MAPS_AT_ONCE = 128


class QueueRequests:
    """Of one VF, with the resources that the PF has said it has."""

    def __init__(self, channel: Virtchnl, resources: VfResources) -> None:
        self._channel = channel
        self._vsi_id = resources.vsi_id
        self._large = resources.num_queue_pairs > NAMED_BY_BITMAPS
        self._vectors = resources.max_vectors - 1

    def vector(self, queue: int) -> int:
        """The MSI-X vector of a queue pair; where there are too few, pairs share them."""
        return 1 + queue % self._vectors

    def configure(self, queues: Sequence[QueuePair], max_frame: int) -> None:
        """CONFIG_VSI_QUEUES."""
        pairs = [queue.config(self._vsi_id, max_frame) for queue in queues]
        for at in range(0, len(pairs), _PAIRS_AT_ONCE):
            part = pairs[at : at + _PAIRS_AT_ONCE]
            self._channel.request(Op.CONFIG_VSI_QUEUES, VsiQueueConfig(self._vsi_id), part)

    def map_vectors(self, queues: Sequence[int], *, tx: bool) -> None:
        """Every pair on its vector; without `tx` only its Rx queue."""
        kinds = (QueueType.RX, QueueType.TX) if tx else (QueueType.RX,)
        if not self._large:
            self._channel.request(Op.CONFIG_IRQ_MAP, IrqMap(), self._irq_map(queues, tx))
            return
        maps = [QueueVector(q, self.vector(q), ITR_NONE, kind) for q in queues for kind in kinds]
        for at in range(0, len(maps), _MAPS_AT_ONCE):
            part = maps[at : at + _MAPS_AT_ONCE]
            self._channel.request(Op.MAP_QUEUE_VECTOR, QueueVectorList(self._vsi_id), part)

    def enable(self, rx: Iterable[int], tx: Iterable[int]) -> None:
        """ENABLE_QUEUES or ENABLE_QUEUES_V2."""
        self._switch(Op.ENABLE_QUEUES, Op.ENABLE_QUEUES_V2, rx, tx)

    def disable(self, rx: Iterable[int], tx: Iterable[int]) -> None:
        """DISABLE_QUEUES or DISABLE_QUEUES_V2; the PF touches their memory no more."""
        self._switch(Op.DISABLE_QUEUES, Op.DISABLE_QUEUES_V2, rx, tx)

    def _switch(self, plain: Op, large: Op, rx: Iterable[int], tx: Iterable[int]) -> None:
        if self._large:
            chunks = [*_chunks(QueueType.TX, tx), *_chunks(QueueType.RX, rx)]
            self._channel.request(large, QueueChunkList(self._vsi_id), chunks)
        else:
            self._channel.request(plain, QueueSelect(self._vsi_id, _bitmap(rx), _bitmap(tx)))

    def _irq_map(self, queues: Iterable[int], tx: bool) -> list[VectorEntry]:
        served: dict[int, int] = {}
        for queue in queues:
            vector = self.vector(queue)
            served[vector] = served.get(vector, 0) | 1 << queue
        return [
            VectorEntry(self._vsi_id, vector, bits, bits if tx else 0, ITR_NONE, ITR_NONE)
            for vector, bits in served.items()
        ]


def _chunks(kind: QueueType, queues: Iterable[int]) -> list[QueueChunk]:
    """Queues as rows of neighbours."""
    rows: list[list[int]] = []
    for queue in sorted(queues):
        if rows and queue == rows[-1][-1] + 1:
            rows[-1].append(queue)
        else:
            rows.append([queue])
    return [QueueChunk(kind, row[0], len(row)) for row in rows]


def _bitmap(queues: Iterable[int]) -> int:
    return sum(1 << queue for queue in queues)
