"""What the ring modules share: descriptor bits, and the state of queues, vectors and a VF.

State that must survive the process (RingState) is apart from what only this run needs.  Tails, ITR
and DYN_CTLN words are memory that the guest also writes: each is read once and judged.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from emuiavf._dma cimport Extent, MemMap
from emuiavf._ring_watch cimport Watch
from emuiavf.datapath._bucket cimport Bucket
from emuiavf.datapath._flow cimport FlowTable, HashTable
from emuiavf.datapath._frame cimport Frame, FrameSink, Poller, Segment, Source
from emuiavf.datapath._toeplitz cimport ToeplitzKey


cdef extern from "txdesc.h" nogil:
    cpdef enum TxDesc:
        TXD_DTYPE_DATA
        TXD_DTYPE_CONTEXT
        TXD_DTYPE_DONE
        TXD_EOP
        TXD_RS
        TXD_IL2TAG1
        TXD_IIPT_SHIFT
        TXD_L4T_SHIFT
        TXD_MACLEN_SHIFT
        TXD_IPLEN_SHIFT
        TXD_L4LEN_SHIFT
        TXD_BUFSZ_SHIFT
        TXD_L2TAG1_SHIFT
        TXC_EIPT
        TXC_EIPLEN_SHIFT
        TXC_L4TUNT_SHIFT
        TXC_EIP_NOINC
        TXC_L4TUNLEN_SHIFT
        TXC_L4T_CS
        TXC_TSO
        TXC_IL2TAG2
        TXC_MSS_SHIFT
    enum:
        TX_DESC_SIZE
        TXD_BUFSZ_MASK
        TXD_NOT_PLAIN

cdef extern from "writeback.h" nogil:
    enum:
        RX_DESC_SIZE

# VFINT_DYN_CTL01 / DYN_CTLN1.
cpdef enum DynCtl:
    DYN_INTENA = 0x1
    DYN_SWINT_TRIG = 0x4
    DYN_ITR_SHIFT = 3
    DYN_ITR_MASK = 0x18
    DYN_ITR_NONE = 0x18
    DYN_INTERVAL_SHIFT = 5
    DYN_INTENA_MSK = 0x80000000

# Why a queue was stopped.
cpdef enum Fault:
    FAULT_NONE
    FAULT_TAIL
    FAULT_RING
    FAULT_ADDRESS
    FAULT_LENGTH
    FAULT_TYPE
    FAULT_CHAIN


# One queue's state: flat, no pointers; enough to go on elsewhere.
cdef struct RingState:
    uint64_t dma_ring_addr
    uint32_t ring_len
    uint32_t head
    uint32_t configured
    uint32_t databuffer_size
    uint32_t max_pkt_size
    uint32_t writeback
    uint32_t fcs           # Rx: bytes of it that are delivered, 0 or 4
    uint32_t details       # Rx: DETAIL_*
    uint32_t cursor        # Tx: payload bytes already sent of the frame at head
    uint32_t generation    # counts configurations


# What the writeback of a Rx ring has beside what all have.
cdef enum:
    DETAIL_FORMAT = 1      # a format other than the three common ones
    DETAIL_STAMP = 2       # the time of each frame


# Events that a vector waits to announce.
cdef enum:
    EVENT_RX = 1
    EVENT_TX = 2
    EVENT_NOW = 4          # no moderation: software trigger, admin queue


cdef struct Vector:
    uint32_t *ctl          # the DYN_CTL word
    uint32_t *itr[3]       # intervals in 2 us units
    uint64_t *row          # where interrupts are counted
    uint64_t last_ns       # of the last interrupt
    int fd                 # eventfd or -1
    uint32_t events        # EVENT_* not yet announced, atomic
    uint32_t rx_itr        # ITR index of each direction, 3 = none
    uint32_t tx_itr
    uint32_t lost          # an interrupt was lost on purpose and not repeated yet


# Of RxSet.strip: the tag of TPID 0x8100 goes to L2TAG1.
cdef enum:
    STRIP_INNER = 1


# Entries of the largest RSS table.
cdef enum:
    LUT_SIZE = 512


# What put() reads of a VF: immutable, published.
cdef struct RxSet:
    uint64_t enabled[4]    # bit per queue
    uint64_t hena
    const ToeplitzKey *key
    const HashTable *hashing   # NULL: `hena` and `key` say it all
    uint32_t chosen            # there is a table of chosen fields, for hashing or for rules
    const FlowTable *rules     # NULL: none
    uint32_t any
    uint32_t extracts      # some enabled ring tells of headers: frames are parsed
    uint32_t strip         # STRIP_INNER; above it the TPID of the tag that goes to L2TAG2, or 0
    uint8_t lut[LUT_SIZE]  # a shorter one stands there several times


cdef struct VfRun:
    FrameSink sink         # first: a FrameSink * is a VfRun *
    RxSet *rx_set
    MemMap **map
    RxRun *rx
    Vector *vectors
    uint32_t num_vectors
    uint32_t used_vectors  # from there on none has had a queue or an event since the reset
    uint32_t num_rx
    uint32_t bus_master
    uint32_t judge         # verdicts on L4 checksums wanted
    uint32_t waiting       # some vector has events it could not announce yet
    uint64_t next_sweep_ns
    uint64_t sweep_ns
    Watch *watch           # NULL: registers trap
    uint64_t *row
    uint64_t *hits         # of each rule, by its id
    Poller *poller
    int fault_fd
    # What the host imposes.
    TxRun *tx
    uint32_t tx_turn       # the Tx ring that goes first when there is something to be sent
    Bucket limit           # of all Tx rings together
    Bucket promise         # what they get at least
    uint32_t lose_irqs     # interrupts still to be lost, atomic
    uint32_t outer_tpid    # of tags inserted from L2TAG2
    uint32_t spoil         # received frames still to be spoilt, atomic


cdef struct RxRun:
    RingState *state
    uint32_t *tail
    uint32_t known_tail    # of the last look, see _ring_tail.pxd
    uint64_t *row
    Vector *vector         # NULL: no interrupt; changed by control
    const MemMap *map
    uint64_t map_seen      # its generation, to which the hints below belong
    const Extent *ring_hint
    const Extent *hint
    uint8_t *ring          # where it was at the last put: to be asked for, not to be read
    uint32_t lock
    uint32_t fault


cdef struct TxRun:
    Source source          # first: a Source * is a TxRun *
    RingState *state
    uint32_t *tail
    uint32_t known_tail    # of the last look, see _ring_tail.pxd
    VfRun *vf
    Vector *vector
    const MemMap *map
    uint64_t map_seen
    const Extent *ring_hint
    const Extent *hint
    uint8_t *ring          # host pointer, of this turn
    uint32_t enabled
    uint32_t fault
    uint32_t taken         # frames of this turn
    uint32_t plain         # those of one descriptor that asks for nothing, by number
    uint32_t reports       # ... and those of them with RS
    uint32_t budget        # bytes that a take may begin a frame within
    uint64_t owed          # bits sent that are less than a nanosecond of the VF's limit ...
    uint64_t own_owed      # ... and of the ring's own
    Bucket limit           # what the guest has asked for
    uint32_t quantum       # bytes that its turn may begin a frame within, BURST_BYTES at most


cdef struct VfPoller:
    Poller poller          # first
    VfRun *vf


cdef enum:
    RX_MAX_BUFFERS = 5      # descriptors per frame; drivers reserve room for five
    RX_ITEMS = 32           # deliveries prepared together


# One delivery that has its buffers: a frame, or one segment of a large frame.
cdef struct Item:
    Frame *frame
    uint32_t at            # payload offset of a segment
    uint32_t length        # bytes delivered, tag stripped
    uint32_t first         # of its pieces
    uint32_t pieces
    uint32_t moved         # tags that are left out: see rx_strip()


# A group of deliveries to one ring: prepared together, copied, then written back in order.
cdef struct Batch:
    Item items[RX_ITEMS]
    Segment pieces[RX_ITEMS * RX_MAX_BUFFERS]
    uint32_t num_items
    uint32_t num_pieces
    uint8_t *ring
    uint32_t slot          # next descriptor to be used
    uint32_t room
    uint32_t judge
    uint32_t ruled         # rules have been looked at: the frames have their verdicts
    uint32_t more          # the descriptors have marks or details
    uint64_t stamp         # with `more`: the time as include/writeback.h has it, or 0
    uint64_t bytes
    uint64_t cast[4]       # frames by the two flag bits: 0 unicast, 1 multicast, 3 broadcast
    uint64_t packets
    uint64_t csum_bad
