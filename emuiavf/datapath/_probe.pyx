"""Python face of the offload code, for tests and benches; nothing in the product imports it.

The kernels in include/ are compiled into every extension that uses them, so `use_kernel` changes
this module's own copy and nobody else's.
"""

import time

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from emuiavf.datapath cimport _frame
from emuiavf.datapath._copy cimport Gather, emit_frame, emit_segment, gather_begin
from emuiavf.datapath._frame cimport (
    BURST_FRAMES, FRAME_HEAD, FRAME_HEADROOM, FRAME_HEAD_MAX, Burst, Frame, Segment,
)
from emuiavf.datapath._offload cimport (
    CSUM_AVX2, CSUM_AVX512, CSUM_SCALAR, Csum, burst_judge, crc32c_add, crc32c_add_table,
    crc32c_final, csum_add, csum_add_copy, csum_fold, csum_init, csum_use, frame_check_request,
    frame_copy, frame_fill_ip_csum, frame_hash, frame_l4_range, frame_parse, frame_pseudo,
    frame_settle,
)
from emuiavf.datapath._segment cimport frame_seed_partial, frame_segment_header
from emuiavf.datapath._toeplitz cimport (
    TOEPLITZ_CLMUL, TOEPLITZ_LOOP, ToeplitzKey, toeplitz_flows, toeplitz_hash, toeplitz_prepare,
    toeplitz_symmetric, toeplitz_use,
)
from emuiavf.datapath._tunnel cimport frame_check_tunnel


cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept


KERNELS = {"scalar": CSUM_SCALAR, "avx2": CSUM_AVX2, "avx512": CSUM_AVX512}
HASHES = {"loop": TOEPLITZ_LOOP, "clmul": TOEPLITZ_CLMUL}


ASK_IP_CSUM = _frame.FRAME_ASK_IP_CSUM
ASK_L4_CSUM = _frame.FRAME_ASK_L4_CSUM
ASK_TSO = _frame.FRAME_ASK_TSO
IPV4 = _frame.FRAME_IPV4
IPV6 = _frame.FRAME_IPV6
FRAGMENT = _frame.FRAME_FRAGMENT
IP_BAD = _frame.FRAME_IP_BAD
TAGGED = _frame.FRAME_TAGGED
TUNNEL = _frame.FRAME_TUNNEL
HEAD_MAX = _frame.FRAME_HEAD_MAX
TUNNEL_NONE = _frame.TUNNEL_NONE
TUNNEL_UDP = _frame.TUNNEL_UDP
TUNNEL_GRE = _frame.TUNNEL_GRE
TUNNEL_KEEP_ID = _frame.TUNNEL_KEEP_ID
TUNNEL_ASK_IP_CSUM = _frame.TUNNEL_ASK_IP_CSUM
TUNNEL_L4_SHIFT = _frame.TUNNEL_L4_SHIFT
L4_NONE = _frame.L4_NONE
L4_TCP = _frame.L4_TCP
L4_SCTP = _frame.L4_SCTP
L4_UDP = _frame.L4_UDP


def use_kernel(str name) -> bool:
    """Force one of KERNELS for the sums of this module; False when the CPU lacks it."""
    return csum_use(KERNELS[name]) == 1


def use_hash(str name) -> bool:
    """Force one of HASHES for this module; False when the CPU lacks it."""
    return toeplitz_use(HASHES[name]) == 1


def csum(*pieces) -> int:
    """One's complement sum of the pieces in memory order, folded, not inverted."""
    cdef Csum state
    cdef const uint8_t[::1] view
    csum_init(&state)
    for piece in pieces:
        if len(piece):
            view = piece
            csum_add(&state, &view[0], view.shape[0])
        else:
            csum_add(&state, NULL, 0)
    return csum_fold(&state)


def csum_copy(uint8_t[::1] dst, const uint8_t[::1] src, size_t piece) -> int:
    """Copies src to dst in pieces of `piece` bytes and returns the sum of all of them."""
    cdef Csum state
    cdef size_t at = 0, size = src.shape[0]
    csum_init(&state)
    while at < size:
        csum_add_copy(&state, &dst[at], &src[at], min(piece, size - at))
        at += min(piece, size - at)
    return csum_fold(&state)


def copy(uint8_t[::1] dst, const uint8_t[::1] src):
    """frame_copy of the whole of src."""
    if src.shape[0]:
        frame_copy(&dst[0], &src[0], src.shape[0])


def crc32c(data, *, bint table=False) -> int:
    """CRC32c of the bytes; `table` forces the form for CPUs without the instruction."""
    cdef const uint8_t[::1] view
    cdef uint32_t crc = 0xffffffff
    if len(data):
        view = data
        if table:
            crc = crc32c_add_table(crc, &view[0], view.shape[0])
        else:
            crc = crc32c_add(crc, &view[0], view.shape[0])
    return crc32c_final(crc)


cdef int prepare(ToeplitzKey *state, const uint8_t[::1] key) except -1:
    if key.shape[0] != 52:
        raise ValueError(f"RSS key: {key.shape[0]} bytes, must be 52")
    toeplitz_prepare(state, &key[0])
    return 0


def toeplitz(const uint8_t[::1] key, const uint8_t[::1] addresses, ports=None) -> int:
    """Toeplitz hash of 8 or 32 bytes of addresses and, unless None, 4 bytes of ports."""
    cdef ToeplitzKey state
    cdef const uint8_t[::1] tail
    prepare(&state, key)
    if addresses.shape[0] not in (8, 32):
        raise ValueError(f"addresses: {addresses.shape[0]} bytes, must be 8 or 32")
    if ports is None:
        return toeplitz_hash(&state, &addresses[0], addresses.shape[0] // 4, NULL)
    tail = ports
    if tail.shape[0] != 4:
        raise ValueError(f"ports: {tail.shape[0]} bytes, must be 4")
    return toeplitz_hash(&state, &addresses[0], addresses.shape[0] // 4, &tail[0])


def toeplitz_burst(const uint8_t[::1] key, const uint8_t[::1] flows, bint symmetric=False) -> list:
    """Toeplitz hashes of up to 32 flows of IPv4, 12 bytes each: addresses, ports."""
    cdef ToeplitzKey state
    cdef const uint8_t *at[BURST_FRAMES]
    cdef uint32_t hashes[BURST_FRAMES]
    cdef Py_ssize_t i, count = flows.shape[0] // 12
    if count > BURST_FRAMES or flows.shape[0] % 12:
        raise ValueError(f"flows: {flows.shape[0]} bytes, must be up to {BURST_FRAMES} times 12")
    prepare(&state, key)
    if symmetric:
        toeplitz_symmetric(&state)
    for i in range(count):
        at[i] = &flows[12 * i]
    toeplitz_flows(&state, at, <unsigned>count, hashes)
    return [hashes[i] for i in range(count)]


cdef class Probe:
    """One frame of which the first `head_len` bytes lie in a private head.

    The bytes around the head are `filler`: a result that depends on them was read out of bounds.
    """

    cdef Frame frame
    cdef uint8_t room[512]
    cdef readonly bytes data

    def __init__(self, bytes data, *, head_len=None, flags=0, l2_len=0, l3_len=0, l4_len=0,
                 l4_proto=0, mss=0, filler=0, tunnel=0, tunnel_len=0):
        cdef const uint8_t *source = data
        cdef size_t size = min(len(data), FRAME_HEAD if head_len is None else head_len)
        if size > 256:
            raise ValueError(f"head_len {size}: at most 256")
        self.data = data
        memset(self.room, filler, sizeof(self.room))
        memset(&self.frame, 0, sizeof(Frame))
        memcpy(self.room + 128, source, size)
        self.frame.head = self.room + 128
        self.frame.head_len = size
        self.frame.len = len(data)
        self.frame.flags = flags
        self.frame.l2_len = l2_len
        self.frame.l3_len = l3_len
        self.frame.l4_len = l4_len
        self.frame.l4_proto = l4_proto
        self.frame.mss = mss
        self.frame.tunnel = tunnel
        self.frame.tunnel_len = tunnel_len

    def parse(self) -> dict[str, int]:
        """What frame_parse found; tci only when TAGGED."""
        frame_parse(&self.frame)
        found = {"ptype": self.frame.ptype, "flags": self.frame.flags, "l2": self.frame.l2_len,
                 "l3": self.frame.l3_len, "l4": self.frame.l4_len, "proto": self.frame.l4_proto}
        if self.frame.flags & TAGGED:
            found["tci"] = self.frame.vlan_tci
        return found

    def check_request(self) -> bool:
        """Whether what the sender asks for can be done."""
        return frame_check_request(&self.frame) == 0

    def check_tunnel(self, uint32_t inner_l3_len) -> bool:
        """The same for the packet inside; `l4_len` was that of its L4 header."""
        return frame_check_tunnel(&self.frame, inner_l3_len) == 0

    def hash(self, const uint8_t[::1] key, uint64_t hena) -> int | None:
        """The Toeplitz hash of a parsed frame, or None for a class without."""
        cdef ToeplitzKey state
        prepare(&state, key)
        return self.frame.hash if frame_hash(&self.frame, &state, hena) else None

    def l4_range(self) -> tuple[int, int, int] | None:
        """Start and end of what the L4 checksum covers, and its field; None when there is none."""
        cdef uint32_t start, end, field
        if not frame_l4_range(&self.frame, &start, &end, &field):
            return None
        return start, end, field

    def pseudo(self, uint32_t l4_bytes) -> int:
        """Folded sum of the pseudo header, in memory order."""
        cdef Csum state
        csum_init(&state)
        frame_pseudo(&self.frame, l4_bytes, &state)
        return csum_fold(&state)

    def judge(self, const uint8_t[::1] key, uint64_t hena) -> tuple[int | None, bool | None]:
        """Hash and verdict as a receiving ring asks for them, from an unparsed frame."""
        cdef ToeplitzKey state
        cdef Burst *burst = <Burst *>aligned_alloc(64, sizeof(Burst))
        cdef uint32_t verdict
        if burst == NULL:
            raise MemoryError
        prepare(&state, key)
        burst.frames[0] = self.frame
        burst_judge(burst, 1, &state, hena, True)
        self.frame = burst.frames[0]
        free(burst)
        verdict = self.frame.flags & (_frame.FRAME_L4_GOOD | _frame.FRAME_L4_BAD)
        return (self.frame.hash if self.frame.flags & _frame.FRAME_HASHED else None,
                verdict == _frame.FRAME_L4_GOOD if verdict else None)

    def segment_header(self, uint32_t at) -> tuple[bytes, int]:
        """Header of the segment at payload offset `at`, and its payload bytes."""
        cdef uint8_t out[FRAME_HEADROOM + FRAME_HEAD_MAX]
        cdef uint32_t payload = 0
        cdef uint32_t size = frame_segment_header(&self.frame, at, out, &payload)
        return out[:size], payload

    def fill_ip_csum(self) -> bytes:
        """The head with its IPv4 header checksum."""
        frame_fill_ip_csum(&self.frame)
        return self.frame.head[:self.frame.head_len]

    def settle(self) -> tuple[bytes, bool | None]:
        """The head with its L4 checksum settled, and the verdict (None: there is none)."""
        cdef uint32_t verdict
        frame_settle(&self.frame, True)
        verdict = self.frame.flags & (_frame.FRAME_L4_GOOD | _frame.FRAME_L4_BAD)
        return (self.frame.head[:self.frame.head_len],
                verdict == _frame.FRAME_L4_GOOD if verdict else None)

    def emit(self, list sources, list pieces, *, uint32_t strip=0, bint judge=True,
             at=None) -> tuple[bytes, bool | None]:
        """The frame (or its segment at payload offset `at`) delivered, and the verdict.

        sources: sizes of the buffers behind the head; pieces: sizes of the receiver's.  ValueError
        when a byte beside the pieces was written.
        """
        cdef const uint8_t[::1] rest = self.data[self.frame.head_len:] + b"\0"
        cdef uint8_t[::1] out = bytearray(b"\xa5" * (sum(pieces) + 16 * len(pieces) + 16))
        cdef Segment segs[64]
        cdef Segment into[64]
        cdef Gather gather
        cdef uint32_t place = 0, verdict = 0
        cdef int i
        if len(sources) > 64 or len(pieces) > 63:
            raise ValueError("at most 64 buffers")
        for i in range(len(sources)):
            segs[i].data = <uint8_t *>&rest[place]
            segs[i].len = sources[i]
            place += segs[i].len
        self.frame.segs = segs
        self.frame.num_segs = len(sources)
        place = 16
        for i in range(len(pieces)):
            into[i].data = &out[place]
            into[i].len = pieces[i]
            place += into[i].len + 16
        # What follows the last piece of a delivery in a batch: the next one's.
        into[len(pieces)].data = &out[0]
        into[len(pieces)].len = 0
        if at is None:
            verdict = emit_frame(&self.frame, strip, into, judge)
        else:
            gather_begin(&gather, &self.frame,
                         self.frame.l2_len + self.frame.l3_len + self.frame.l4_len + <uint32_t>at)
            emit_segment(&self.frame, at, &gather, strip, into)
        self.frame.num_segs = 0
        delivered = b""
        place = 0
        for size in pieces:
            if bytes(out[place:place + 16]) != b"\xa5" * 16:
                raise ValueError("written beside the pieces")
            delivered += bytes(out[place + 16:place + 16 + size])
            place += 16 + size
        if bytes(out[place:]) != b"\xa5" * 16:
            raise ValueError("written behind the pieces")
        return delivered, verdict == _frame.FRAME_L4_GOOD if verdict else None

    def seed_partial(self) -> bytes:
        """The head as a TAP wants it."""
        frame_seed_partial(&self.frame)
        return self.frame.head[:self.frame.head_len]


def ns_per_frame(bytes data, const uint8_t[::1] key, int rounds) -> float:
    """Time of parse, verdict and hash of a frame that is wholly in its head."""
    cdef Probe probe = Probe(data)
    cdef ToeplitzKey state
    prepare(&state, key)
    began = time.perf_counter_ns()
    with nogil:
        judge(&probe.frame, &state, rounds)
    return (time.perf_counter_ns() - began) / rounds


cdef void judge(Frame *frame, const ToeplitzKey *key, int rounds) noexcept nogil:
    cdef uint64_t hena = ~<uint64_t>0
    cdef int _round
    for _round in range(rounds):
        frame_parse(frame)
        frame.flags &= ~<uint32_t>(_frame.FRAME_L4_GOOD | _frame.FRAME_L4_BAD)
        frame_settle(frame, True)
        frame_hash(frame, key, hena)
