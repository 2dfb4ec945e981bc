"""The generating port: numbered and checksummed frames without end, or a given number of them.

A frame is a function of its number, so nothing is kept: what found no room is made again.  Layout:
_pattern.pxd; the port `verify` and our guest driver check it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from emuiavf._bits cimport low_bits
from emuiavf._pattern cimport (
    PRIME, STAMPED, FixedHead, Lanes, Stream, fill, fixed_head, fixed_init, lanes_add_bytes,
    lanes_fold, stream_init,
)
from emuiavf.datapath._endpoint cimport SourceRef
from emuiavf.datapath._frame cimport (
    BURST_BYTES, BURST_FRAMES, FRAME_HEAD, FRAME_HEADROOM, FRAME_MAX_LEN, L4_NONE, TX_BYTES,
    TX_PACKETS, TX_UNICAST, Burst, Frame, Source,
)
from emuiavf.ports._port cimport Port

from emuiavf._pattern import flow_header
from emuiavf.emudev.vdev import Option, integer, mac

MAX_FLOWS = 1024
# RFC 2544's range for tests; testpmd's txonly uses the other half of it.
SOURCE_IP, TARGET_IP = bytes([198, 19, 0, 1]), bytes([198, 19, 0, 2])
FIRST_PORT = 0x4000
DEFAULT_SRC, DEFAULT_DST = bytes.fromhex("0200000000fe"), bytes.fromhex("020000000001")

cdef uint64_t SECOND_NS = 1_000_000_000
cdef enum:
    # A port that was held, or a worker that slept, makes up for no more than this many frames.
    MAX_CREDIT = 1024
    # `fill` writes whole words.
    SLACK = 8


cdef struct Gen:
    Source source          # first
    FixedHead *flows
    uint64_t next          # frames done, over all flows
    uint64_t end           # of all frames; 0: there is none
    uint64_t rate          # frames per second; 0: as many as there is room for
    uint64_t earned_ns     # until when `credit` is counted
    uint64_t credit        # frames that may be sent now, times 10^9
    uint32_t num_flows
    uint32_t size
    uint32_t stride        # of `rests`
    uint8_t *rests         # what is behind the head, one for each frame of a burst
    Frame frame            # what all frames have in common


cdef inline void make_frame(const Gen *gen, const FixedHead *flow, Burst *burst, uint32_t i,
                            uint64_t seq, uint64_t now_ns) noexcept nogil:
    cdef uint8_t *head = burst.heads[i] + FRAME_HEADROOM
    cdef Frame *frame = &burst.frames[i]
    cdef uint64_t words[8]
    cdef uint64_t number = flow.words[7] >> 16
    cdef Lanes lanes
    cdef uint32_t rest
    fixed_head(flow, words, &lanes, seq, now_ns)
    frame[0] = gen.frame
    frame.head = head
    if gen.size > STAMPED:
        rest = frame.head_len - STAMPED
        fill(head + STAMPED, rest, (seq + 1) * PRIME + number)
        lanes_add_bytes(&lanes, head + STAMPED, rest)
    if gen.size > FRAME_HEAD:
        rest = gen.size - FRAME_HEAD
        frame.segs = &burst.segs[i]
        frame.segs.data = gen.rests + <uint64_t>i * gen.stride
        frame.segs.len = rest
        fill(frame.segs.data, rest, (seq + 1) * PRIME ^ number)
        lanes_add_bytes(&lanes, frame.segs.data, rest)
    words[7] |= <uint64_t>lanes_fold(&lanes) << 32
    memcpy(head, words, STAMPED)


cdef inline void earn(Gen *gen, uint64_t now) noexcept nogil:
    """What may be sent grows with the time, up to MAX_CREDIT frames."""
    cdef uint64_t passed = now - gen.earned_ns if gen.earned_ns else 0
    gen.earned_ns = now
    if passed > SECOND_NS:
        passed = SECOND_NS
    gen.credit += passed * gen.rate
    if gen.credit > MAX_CREDIT * SECOND_NS:
        gen.credit = MAX_CREDIT * SECOND_NS


cdef int gen_take(Source *source, Burst *burst) noexcept nogil:
    cdef Gen *gen = <Gen *>source
    cdef uint64_t count = BURST_FRAMES
    cdef uint64_t seq = gen.next // gen.num_flows, now_ns = burst.now_ns
    cdef uint32_t i, flow = <uint32_t>(gen.next % gen.num_flows)
    if gen.end and gen.end - gen.next < count:
        count = gen.end - gen.next
    if gen.size * count > BURST_BYTES:
        count = BURST_BYTES // gen.size
    if gen.rate:
        earn(gen, burst.now_ns)
        if gen.credit < count * SECOND_NS:
            count = gen.credit // SECOND_NS
    burst.num_segs = BURST_FRAMES
    if gen.size <= FRAME_HEAD:
        burst.whole = low_bits(<uint32_t>count)
    for i in range(<uint32_t>count):
        make_frame(gen, &gen.flows[flow], burst, i, seq, now_ns)
        flow += 1
        if flow == gen.num_flows:
            flow = 0
            seq += 1
    return <int>count


cdef void gen_done(Source *source, Burst *burst, int n) noexcept nogil:
    cdef Gen *gen = <Gen *>source
    gen.next += n
    if gen.rate:
        gen.credit -= <uint64_t>n * SECOND_NS
    source.row[TX_PACKETS] += n
    source.row[TX_UNICAST] += n
    source.row[TX_BYTES] += <uint64_t>n * gen.size


cdef class Generator(Port):
    """A source of numbered frames; what is sent to it goes nowhere.

    `flows` differ in their UDP source port and take turns; `count` frames in all, 0 for no end;
    `rate` in frames per second, 0 for as many as the destination takes.
    """

    OPTIONS = {
        "size": Option(integer(STAMPED, FRAME_MAX_LEN), 64),
        "flows": Option(integer(1, MAX_FLOWS), 1),
        "rate": Option(integer(0, 1_000_000_000), 0),
        "count": Option(integer(0, (1 << 63) - 1), 0),
        "dst": Option(mac, DEFAULT_DST),
        "src": Option(mac, DEFAULT_SRC),
    }

    cdef Gen _gen
    cdef list _refs

    def __cinit__(self, *args, **kwargs):
        self._gen.flows = NULL
        self._gen.rests = NULL

    def __init__(self, str name, dict values, rows=None):
        cdef Stream stream
        cdef uint32_t i
        super().__init__(name, rows)
        self._gen.size = values["size"]
        self._gen.num_flows = values["flows"]
        self._gen.rate = values["rate"]
        self._gen.end = values["count"]
        self._gen.frame.len = self._gen.size
        self._gen.frame.head_len = min(self._gen.size, <uint32_t>FRAME_HEAD)
        self._gen.frame.num_segs = self._gen.size > FRAME_HEAD
        self._gen.frame.ptype = 1
        self._gen.frame.l4_proto = L4_NONE
        self._gen.frame.dst_mac = int.from_bytes(values["dst"], "little")
        self._gen.flows = <FixedHead *>calloc(self._gen.num_flows, sizeof(FixedHead))
        self._gen.stride = (self._gen.size + SLACK + 63) & ~63
        self._gen.rests = <uint8_t *>calloc(BURST_FRAMES, self._gen.stride)
        if self._gen.flows == NULL or self._gen.rests == NULL:
            raise MemoryError
        for i in range(self._gen.num_flows):
            header = flow_header(values["src"], values["dst"], SOURCE_IP, TARGET_IP, FIRST_PORT + i)
            stream_init(&stream, header, i)
            fixed_init(&self._gen.flows[i], &stream, self._gen.size)
        self._gen.source.take = gen_take
        self._gen.source.done = gen_done
        self._gen.source.fd = -1
        self._gen.source.row = self.tx_row
        self.polled = True
        self._refs = [SourceRef.of(&self._gen.source, self, 0)]

    def __dealloc__(self):
        free(self._gen.flows)
        free(self._gen.rests)

    cpdef list active_sources(self):
        return self._refs
