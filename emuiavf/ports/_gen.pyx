"""The generating port: numbered and checksummed frames without end, or a given number of them.

A frame is a function of its number, so nothing is kept: what found no room is made again.  Layout:
_pattern.pxd; the port `verify` and our guest driver check it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from emuiavf._bits cimport low_bits
from emuiavf._pattern cimport (
    FOLD_STEP, PRIME, STAMPED, Stream, lanes_begin_half, stream_head, stream_init,
)
from emuiavf.datapath._endpoint cimport SourceRef
from emuiavf.datapath._frame cimport (
    BURST_BYTES, BURST_FRAMES, FRAME_HEAD, FRAME_MAX_LEN, TX_BYTES, TX_PACKETS, TX_UNICAST, Burst,
    Source,
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
    cdef uint32_t size = gen.common.frame.len
    if gen.end and gen.end - gen.next < count:
        count = gen.end - gen.next
    if size * count > BURST_BYTES:
        count = BURST_BYTES // size
    if gen.rate:
        earn(gen, burst.now_ns)
        if gen.credit < count * SECOND_NS:
            count = gen.credit // SECOND_NS
    burst.num_segs = BURST_FRAMES
    # The destination is unicast: the option refuses others.
    burst.alike = size * count
    if size <= FRAME_HEAD:
        burst.whole = low_bits(<uint32_t>count)
    gen.common.make(&gen.common, burst, <unsigned>count, <uint32_t>(gen.next % gen.num_flows),
                    gen.next // gen.num_flows, burst.now_ns)
    return <int>count


cdef void gen_done(Source *source, Burst *burst, int n) noexcept nogil:
    cdef Gen *gen = <Gen *>source
    gen.next += n
    if gen.rate:
        gen.credit -= <uint64_t>n * SECOND_NS
    source.row[TX_PACKETS] += n
    source.row[TX_UNICAST] += n
    source.row[TX_BYTES] += <uint64_t>n * gen.common.frame.len


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

    def __cinit__(self, *args, **kwargs):
        self._gen.common.turn = NULL
        self._gen.common.rests = NULL

    def __init__(self, str name, dict values, rows=None):
        super().__init__(name, rows)
        self._gen.num_flows = values["flows"]
        self._gen.rate = values["rate"]
        self._gen.end = values["count"]
        self._gen.common.frame = generated_frame(
            values["size"], int.from_bytes(values["dst"], "little"))
        self._gen.common.stride = (values["size"] + SLACK + 63) & ~63
        self._gen.common.rests = <uint8_t *>calloc(BURST_FRAMES, self._gen.common.stride)
        self._set_flows(values["src"], values["dst"])
        if not generate_use(&self._gen.common, CPU_AVX2):
            generate_use(&self._gen.common, CPU_BASE)
        self._gen.source.take = gen_take
        self._gen.source.done = gen_done
        self._gen.source.fd = -1
        self._gen.source.row = self.tx_row
        self.polled = True
        self._refs = [SourceRef.of(&self._gen.source, self, 0)]

    def __dealloc__(self):
        free(self._gen.common.turn)
        free(self._gen.common.rests)

    cdef int _set_flows(self, bytes src, bytes dst) except -1:
        """All but number, time and checksum of the frames."""
        cdef Generated *common = &self._gen.common
        cdef uint64_t words[8]
        cdef Stream stream
        cdef uint32_t i, flow, rows = self._gen.num_flows + BURST_FRAMES
        common.turn = <uint64_t *>calloc(rows, 5 * sizeof(uint64_t))
        if common.turn == NULL or common.rests == NULL:
            raise MemoryError
        common.word4 = common.turn + rows
        common.word7 = common.word4 + rows
        common.lane0 = common.word7 + rows
        common.folded = common.lane0 + rows
        for i in range(rows):
            flow = i % self._gen.num_flows
            header = flow_header(src, dst, SOURCE_IP, TARGET_IP, FIRST_PORT + flow)
            stream_init(&stream, header, flow)
            stream_head(&stream, words, common.frame.len, 0, 0)
            lanes_begin_half(&common.lanes, words, common.frame.len)
            memcpy(common.words, words, sizeof(common.words))
            common.word5 = words[5]
            common.turn[i] = i // self._gen.num_flows
            common.word4[i] = words[4]
            common.word7[i] = words[7]
            common.lane0[i] = (common.lanes.lane[0] ^ words[4]) * PRIME
            common.folded[i] = FOLD_STEP(common.lane0[i])
        return 0

    cpdef list active_sources(self):
        return self._refs
