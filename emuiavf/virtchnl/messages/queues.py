"""Queues: how they are laid out, which vector serves them, which of them run."""

from typing import Annotated

from emuiavf.layout import S32, U8, U16, U32, U64, Wire, wire


@wire(size=8)
class VsiQueueConfig(Wire):
    """CONFIG_VSI_QUEUES: header of a list of `QueuePair`."""

    vsi_id: U16
    num_queue_pairs: Annotated[int, "H4x"] = 0


@wire(size=64)
class QueuePair(Wire):
    """One queue pair of CONFIG_VSI_QUEUES; a ring_len of 0 leaves that half unconfigured."""

    tx_vsi_id: U16
    tx_queue_id: U16
    tx_ring_len: U16
    tx_headwb_enabled: U16
    tx_dma_ring_addr: U64
    tx_dma_headwb_addr: U64
    rx_vsi_id: U16
    rx_queue_id: U16
    rx_ring_len: U32
    rx_hdr_size: U16
    rx_splithdr_enabled: U16
    rx_databuffer_size: U32
    rx_max_pkt_size: U32
    rx_crc_disable: U8
    rx_rxdid: U8
    rx_flags: Annotated[int, "Bx"]
    rx_dma_ring_addr: U64
    rx_split_pos: Annotated[int, "i4x"]


@wire(size=2)
class IrqMap(Wire):
    """CONFIG_IRQ_MAP: header of a list of `VectorEntry` (which is then not aligned)."""

    num_vectors: U16 = 0


@wire(size=12)
class VectorEntry(Wire):
    """What one vector serves: bitmaps of queues and an ITR index for each direction."""

    vsi_id: U16
    vector_id: U16
    rxq_map: U16
    txq_map: U16
    rxitr_idx: U16
    txitr_idx: U16


@wire(size=12)
class QueueSelect(Wire):
    """ENABLE_QUEUES, DISABLE_QUEUES (bitmaps) and GET_STATS (only vsi_id counts)."""

    vsi_id: Annotated[int, "H2x"]
    rx_queues: U32 = 0
    tx_queues: U32 = 0


@wire(size=2)
class QueueRequest(Wire):
    """REQUEST_QUEUES, both ways: a number of queue pairs."""

    num_queue_pairs: U16


@wire(size=8)
class SupportedRxdids(Wire):
    """Reply of GET_SUPPORTED_RXDIDS: bit n stands for RXDID n."""

    supported_rxdids: U64


# Of a VF with more than 16 queue pairs (LARGE_NUM_QPAIRS)


@wire(size=8)
class QueueChunkList(Wire):
    """ENABLE_QUEUES_V2, DISABLE_QUEUES_V2: header of a list of `QueueChunk`."""

    vport_id: Annotated[int, "H2x"]
    num_chunks: Annotated[int, "H2x"] = 0


@wire(size=8)
class QueueChunk(Wire):
    """Queues in a row; `type` as `ops.QueueType`."""

    type: S32
    start_queue_id: U16
    num_queues: U16


@wire(size=8)
class QueueVectorList(Wire):
    """MAP_QUEUE_VECTOR: header of a list of `QueueVector`."""

    vport_id: U16
    num_qv_maps: Annotated[int, "H4x"] = 0


@wire(size=16)
class QueueVector(Wire):
    """One queue and its vector; `queue_type` as `ops.QueueType`."""

    queue_id: U16
    vector_id: Annotated[int, "H4x"]
    itr_idx: S32
    queue_type: S32


@wire(size=8)
class MaxRssQregion(Wire):
    """Reply of GET_MAX_RSS_QREGION: RSS can use 2^`qregion_width` queues."""

    vport_id: U16
    qregion_width: Annotated[int, "H4x"]
