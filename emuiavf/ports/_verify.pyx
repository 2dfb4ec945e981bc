"""The verifying port: counts what comes and, of numbered frames, what is missing, late or damaged.

Layout of the frames: _pattern.pxd; the port `gen` makes them.  A frame is read from the guest's
memory once, into a buffer of ours, unless it lies in its private head altogether.  One VLAN tag or
two may have been put into it on the way.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from emuiavf._atomic cimport add_relaxed_u64, spin_lock, spin_unlock
from emuiavf._bits cimport lowest_bit
from emuiavf._pattern cimport (
    STAMPED, Lanes, Stamp, lanes_add_bytes, lanes_begin, lanes_fold, stamp_of,
)
from emuiavf.datapath._copy cimport emit_frame
from emuiavf.datapath._frame cimport (
    FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_HEADROOM, FRAME_HEAD_MAX,
    FRAME_MAX_LEN, FRAME_TUNNEL, RX_UNKNOWN_PROTOCOL, Burst, Frame, FrameSink, Segment,
)
from emuiavf.ports._port cimport Port, tally_accepted

from emuiavf.emudev.info import RxFilter
from emuiavf.emudev.vdev import Option, switch
from emuiavf.ports._gen import SOURCE_IP, TARGET_IP
from emuiavf.stats import VERIFY_COUNTERS

# Columns of the row, see emuiavf/stats.py.
cdef enum:
    VERIFY_FRAMES
    VERIFY_LOST
    VERIFY_REORDERED
    VERIFY_CORRUPTED
    VERIFY_FLOWS
    NUM_VERIFY

assert len(VERIFY_COUNTERS) == NUM_VERIFY

cdef enum:
    FLOW_NUMBERS = 65536
    SCRATCH = FRAME_MAX_LEN + 128
    ADDRESSES = 12         # bytes in front of the tags
    MAX_TAGS = 2
    TAG = 4
    ASKED = FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM | FRAME_TUNNEL


cdef struct VerifyOut:
    FrameSink sink
    uint64_t *row
    uint64_t *result
    uint64_t *expected     # by flow: one more than the highest number seen; 0: none was
    uint8_t *scratch
    uint64_t addresses     # of the IPv4 header, as a word
    uint32_t lock          # guards all but `row`
    uint32_t check


cdef inline uint32_t tags_of(const uint8_t *head) noexcept nogil:
    """Bytes of VLAN tags in a head of STAMPED bytes, of two tags at most."""
    cdef uint32_t at = 0
    cdef uint32_t tpid
    while at < MAX_TAGS * TAG:
        tpid = <uint32_t>head[ADDRESSES + at] << 8 | head[ADDRESSES + at + 1]
        if tpid not in (0x8100, 0x88A8, 0x9100):
            break
        at += TAG
    return at


cdef inline uint64_t addresses_of(const uint8_t *head) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, head + 26, 8)
    return word


cdef inline const uint8_t *whole(VerifyOut *out, Frame *frame) noexcept nogil:
    """The frame in one piece, with the checksums that its sender has left to the device."""
    cdef uint8_t head[FRAME_HEADROOM + FRAME_HEAD_MAX]
    cdef Segment into[2]
    cdef Frame copy
    if frame.num_segs == 0 and not frame.flags & ASKED:
        return frame.head
    # The head may also go to other destinations: what is finished is a copy.
    copy = frame[0]
    memcpy(head, frame.head, frame.head_len)
    copy.head = head
    into[0].data = out.scratch
    into[0].len = frame.len
    into[1].data = NULL
    into[1].len = 0
    emit_frame(&copy, 0, into, False)
    return out.scratch


cdef int verify_frame(VerifyOut *out, Frame *frame) noexcept nogil:
    """Count a frame; 0 when it is none of the numbered ones."""
    cdef const uint8_t *data
    cdef uint32_t tags
    cdef uint64_t words[8]
    cdef uint64_t *expected
    cdef uint64_t *result = out.result
    cdef Lanes lanes
    cdef Stamp stamp
    if (frame.len < STAMPED or frame.head_len < STAMPED or frame.len > FRAME_MAX_LEN
            or frame.head_len > FRAME_HEADROOM + FRAME_HEAD_MAX or frame.flags & FRAME_ASK_TSO):
        return 0
    tags = tags_of(frame.head)
    if (frame.len < STAMPED + tags or frame.head_len < STAMPED + tags
            or addresses_of(frame.head + tags) != out.addresses):
        return 0
    data = whole(out, frame)
    if tags:
        memcpy(words, data, ADDRESSES)
        memcpy(<uint8_t *>words + ADDRESSES, data + ADDRESSES + tags, STAMPED - ADDRESSES)
    else:
        memcpy(words, data, STAMPED)
    stamp = stamp_of(words)
    lanes_begin(&lanes, words, frame.len - tags)
    lanes_add_bytes(&lanes, data + STAMPED + tags, frame.len - STAMPED - tags)
    expected = &out.expected[stamp.flow]
    result[VERIFY_FRAMES] += 1
    if lanes_fold(&lanes) != stamp.check:
        result[VERIFY_CORRUPTED] += 1
        # Damaged, but not lost when it is the one that was due.
        if stamp.seq == expected[0] and expected[0] != 0:
            expected[0] += 1
        return 1
    if expected[0] == 0:
        # Where a flow begins for us: what went by before was for nobody.
        result[VERIFY_FLOWS] += 1
        expected[0] = stamp.seq + 1
    elif stamp.seq >= expected[0]:
        result[VERIFY_LOST] += stamp.seq - expected[0]
        expected[0] = stamp.seq + 1
    else:
        result[VERIFY_REORDERED] += 1
        if result[VERIFY_LOST]:
            result[VERIFY_LOST] -= 1
    return 1


cdef uint32_t verify_put(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil:
    cdef VerifyOut *out = <VerifyOut *>sink
    cdef uint32_t left = mask, foreign = 0
    tally_accepted(burst, mask, out.row)
    if not out.check:
        return mask
    spin_lock(&out.lock)
    while left:
        foreign += not verify_frame(out, &burst.frames[lowest_bit(left)])
        left &= left - 1
    spin_unlock(&out.lock)
    if foreign:
        add_relaxed_u64(out.row + RX_UNKNOWN_PROTOCOL, foreign)
    return mask


cdef class Verifier(Port):
    """A sink that checks numbered frames; `check=off` makes it a counter alone.

    `rows` has a third row beside those of every port: `verify` of `emuiavf.stats`.
    """

    OPTIONS = {"check": Option(switch, True)}

    cdef VerifyOut _out
    cdef object _result

    def __cinit__(self, *args, **kwargs):
        self._out.expected = <uint64_t *>calloc(FLOW_NUMBERS, sizeof(uint64_t))
        self._out.scratch = <uint8_t *>malloc(SCRATCH)
        if self._out.expected == NULL or self._out.scratch == NULL:
            raise MemoryError

    def __init__(self, str name, dict values, rows):
        cdef uint64_t[:, ::1] view = rows
        super().__init__(name, rows)
        if view.shape[0] < 3:
            raise ValueError(f"{name}: counter rows of shape {rows.shape}")
        self._out.result = &view[2, 0]
        self._out.check = values["check"]
        self._out.addresses = addresses_of(b"\0" * 26 + SOURCE_IP + TARGET_IP)
        self._out.sink.put = verify_put
        self._out.row = self.rx_row
        self.sink = &self._out.sink
        # In a switch it sees what everybody sends, not only what has no better place.
        self.rx_filter = RxFilter(promisc_unicast=True, promisc_multicast=True)

    def __dealloc__(self):
        free(self._out.expected)
        free(self._out.scratch)
