"""The TAP port's reading side: frames from the kernel, and what it asks for in their headers.

That is judged like any other input.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from emuiavf.datapath._frame cimport (
    BURST_BYTES, BURST_FRAMES, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_BROADCAST, FRAME_HEAD,
    FRAME_IPV4, FRAME_L4_GOOD, FRAME_MAX_LEN, FRAME_MIN_LEN, FRAME_MULTICAST, L4_TCP, L4_UDP,
    TX_BROADCAST, TX_BYTES, TX_ERRORS, TX_MULTICAST, TX_PACKETS, TX_UNICAST, Burst, Frame, Source,
    frame_take_dst,
)
from emuiavf.datapath._offload cimport (
    Csum, csum_add, csum_fold, csum_init, frame_check_request, frame_parse,
)
from emuiavf.ports._tap_header cimport (
    CSUM_FIELD, GSO_UDP_L4, HEADER, VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6, VnetHeader,
)


cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *buffer, size_t count) noexcept


# After a look that found nothing the next one waits: a read costs a system call, and a worker
# that also polls rings would make one every turn.  (Asleep, it is woken by the descriptor.)
cdef uint64_t LOOK_NS = 2_000


cdef int finish_csum(Frame *frame, uint8_t *data, uint32_t start, uint32_t field) noexcept nogil:
    """A checksum that we cannot name (inside a tunnel, behind unknown headers): done here."""
    cdef Csum csum
    cdef uint16_t value
    if start > frame.len or field > frame.len or frame.len - field < 2 or field < start:
        return 1
    csum_init(&csum)
    # The field holds the sum of the pseudo header and is part of what is summed.
    csum_add(&csum, data + start, frame.len - start)
    value = <uint16_t>~csum_fold(&csum)
    if value == 0:
        value = 0xFFFF
    memcpy(data + field, &value, 2)
    frame.flags |= FRAME_L4_GOOD
    return 0


cdef int judge_header(Frame *frame, uint8_t *data, const VnetHeader *header) noexcept nogil:
    """Turn the kernel's wishes into flags of the frame; non-zero: it cannot be delivered."""
    cdef uint32_t kind = header.gso_type & ~<uint32_t>VIRTIO_NET_HDR_GSO_ECN
    cdef uint32_t start = header.csum_start, field = start + header.csum_offset
    cdef bint large = kind != VIRTIO_NET_HDR_GSO_NONE
    if not header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        if header.flags & VIRTIO_NET_HDR_F_DATA_VALID:
            frame.flags |= FRAME_L4_GOOD
        return large or frame.len > FRAME_MAX_LEN
    if not large and frame.len > FRAME_MAX_LEN:
        return 1
    frame_parse(frame)
    if (frame.l4_proto != L4_TCP and frame.l4_proto != L4_UDP
            or start != <uint32_t>frame.l2_len + frame.l3_len
            or header.csum_offset != CSUM_FIELD[frame.l4_proto]):
        return large or finish_csum(frame, data, start, field)
    frame.flags |= FRAME_ASK_L4_CSUM
    if large:
        if kind == VIRTIO_NET_HDR_GSO_TCPV4 or kind == VIRTIO_NET_HDR_GSO_TCPV6:
            if frame.l4_proto != L4_TCP:
                return 1
            if (kind == VIRTIO_NET_HDR_GSO_TCPV4) != (frame.flags & FRAME_IPV4 != 0):
                return 1
        elif kind != GSO_UDP_L4 or frame.l4_proto != L4_UDP:
            return 1
        frame.flags |= FRAME_ASK_TSO
        frame.mss = header.gso_size
    return frame_check_request(frame)


cdef int admit(TapIn *tap, uint8_t *data, uint32_t length,
               const VnetHeader *header) noexcept nogil:
    """Make a Frame of what was read; non-zero: dropped."""
    cdef Frame *frame = &tap.frames[tap.count]
    if length < FRAME_MIN_LEN:
        return 1
    memset(frame, 0, sizeof(Frame))
    frame.head = data
    frame.len = length
    frame.head_len = <uint16_t>(length if length < FRAME_HEAD else FRAME_HEAD)
    frame.ptype = 1
    frame.flags = frame_take_dst(frame, data)
    if judge_header(frame, data, header):
        return 1
    tap.rests[tap.count].data = data + frame.head_len
    tap.rests[tap.count].len = length - frame.head_len
    return 0


cdef void read_frames(TapIn *tap) noexcept nogil:
    """Fill the buffer from its start; bounded in reads and in bytes."""
    cdef VnetHeader header
    cdef uint8_t *place
    cdef ssize_t count
    cdef uint32_t at = 0, total = 0
    cdef int _read
    tap.first = 0
    tap.count = 0
    for _read in range(BURST_FRAMES):
        if total >= BURST_BYTES:
            break
        # The header takes the headroom's place: the frame itself begins at a cache line.
        place = tap.buffer + at + 64
        count = read(tap.source.fd, place - HEADER, TAP_FRAME)
        if count < 0:
            break
        if count <= HEADER or count == TAP_FRAME:
            tap.source.row[TX_ERRORS] += 1
            continue
        memcpy(&header, place - HEADER, HEADER)
        count -= HEADER
        if admit(tap, place, <uint32_t>count, &header):
            tap.source.row[TX_ERRORS] += 1
            continue
        tap.count += 1
        total += <uint32_t>count
        at += (<uint32_t>count + 127) & ~<uint32_t>63


cdef int tap_take(Source *source, Burst *burst) noexcept nogil:
    cdef TapIn *tap = <TapIn *>source
    cdef Frame *frame
    cdef int n = 0
    cdef uint32_t i
    if tap.first == tap.count:
        if burst.now_ns - tap.looked_ns < LOOK_NS:
            return 0
        read_frames(tap)
        if tap.count == 0:
            tap.looked_ns = burst.now_ns
            return 0
    burst.num_segs = 0
    for i in range(tap.first, tap.count):
        frame = &burst.frames[n]
        frame[0] = tap.frames[i]
        if tap.rests[i].len:
            burst.segs[burst.num_segs] = tap.rests[i]
            frame.segs = &burst.segs[burst.num_segs]
            frame.num_segs = 1
            burst.num_segs += 1
        n += 1
    return n


cdef void tap_done(Source *source, Burst *burst, int n) noexcept nogil:
    cdef TapIn *tap = <TapIn *>source
    cdef const Frame *frame
    cdef uint64_t *row = source.row
    cdef int _i
    for _i in range(n):
        frame = &tap.frames[tap.first]
        tap.first += 1
        row[TX_PACKETS] += 1
        row[TX_BYTES] += frame.len
        if frame.flags & FRAME_BROADCAST:
            row[TX_BROADCAST] += 1
        elif frame.flags & FRAME_MULTICAST:
            row[TX_MULTICAST] += 1
        else:
            row[TX_UNICAST] += 1
    if tap.first < tap.count:
        tap.frames[tap.first].cursor = burst.frames[n].cursor
