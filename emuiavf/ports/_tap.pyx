"""The TAP port: frames to and from a Linux network interface, with its offloads.

Every read and write is a virtio-net header and a frame, so partial checksums and large TCP and UDP
frames pass in both directions without being finished or cut here.  What the kernel says in that
header is judged like any other input.  virtio 1.3, 5.1.6; linux/virtio_net.h.
"""

import os

from libc.errno cimport EAGAIN, EFAULT, EIO, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from emuiavf.datapath._copy cimport Gather, gather_begin
from emuiavf.datapath._endpoint cimport SourceRef
from emuiavf.datapath._frame cimport (
    BURST_BYTES, BURST_FRAMES, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_BROADCAST,
    FRAME_HEAD, FRAME_HEADROOM, FRAME_HEAD_MAX, FRAME_IPV4, FRAME_L4_GOOD, FRAME_MAX_LEN,
    FRAME_MAX_SEGMENTS, FRAME_MIN_LEN, FRAME_MULTICAST, FRAME_TUNNEL, L4_SCTP, L4_TCP, L4_UDP,
    PUT_DROP, RX_BAD_ADDRESS, RX_DISCARDS, RX_NO_BUFFER, RX_PACKETS, RX_QUEUE_OFF, RX_TOO_LONG,
    TX_BROADCAST, TX_BYTES, TX_ERRORS, TX_MULTICAST, TX_PACKETS, TX_UNICAST, Burst, Frame,
    FrameSink, Segment, Source, frame_take_dst,
)
from emuiavf.datapath._offload cimport (
    Csum, crc32c_add, crc32c_final, csum_add, csum_fold, csum_init, frame_check_request,
    frame_l4_range, frame_parse,
)
from emuiavf.datapath._segment cimport frame_seed_partial, frame_segment_header
from emuiavf.datapath._tunnel cimport (
    Sealing, tunnel_begin, tunnel_body, tunnel_parts, tunnel_seal,
)
from emuiavf.ports._port cimport Port, Tally, tally_discard, tally_flush, tally_frame

from emuiavf.emudev.vdev import Option, integer, switch, text
from emuiavf.errors import ConfigError
from emuiavf.ports import tun


cdef extern from "<sys/uio.h>" nogil:
    ctypedef struct Iovec "struct iovec":
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const Iovec *iov, int count) noexcept

cdef extern from *:
    """
    static inline void load_byte(const void *at) { (void)*(const volatile unsigned char *)at; }
    """
    void load_byte(const void *at) noexcept nogil

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *buffer, size_t count) noexcept

cdef extern from "<linux/virtio_net.h>" nogil:
    ctypedef struct VnetHeader "struct virtio_net_hdr":
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset
    enum:
        VIRTIO_NET_HDR_F_NEEDS_CSUM
        VIRTIO_NET_HDR_F_DATA_VALID
        VIRTIO_NET_HDR_GSO_NONE
        VIRTIO_NET_HDR_GSO_TCPV4
        VIRTIO_NET_HDR_GSO_TCPV6
        VIRTIO_NET_HDR_GSO_ECN

cdef enum:
    GSO_UDP_L4 = 5              # VIRTIO_NET_HDR_GSO_UDP_L4, absent from older headers
    HEADER = 10                 # sizeof(struct virtio_net_hdr); tun.HEADER_SIZE
    LEAST_PAGE = 4096           # no machine has smaller ones
    # Linux hands out 64 KiB of payload and its headers, never more; a longer read is cut off.
    TAP_FRAME = 81920
    TAP_BUFFER = BURST_BYTES + TAP_FRAME + BURST_FRAMES * 128 + 64
    TAP_PIECE = 65535           # IP bytes of one frame that Linux takes
    UDP_PIECES = 64             # ... and datagrams of one large UDP frame (its limit is 128)
    VLAN_TAGS = 8
    TCP_CWR = 0x80
    SENT = -1
    NO_ROOM = -2

# After a look that found nothing the next one waits: a read costs a system call, and a worker
# that also polls rings would make one every turn.  (Asleep, it is woken by the descriptor.)
cdef uint64_t LOOK_NS = 2_000
# Where the checksum is behind the L4 header, by L4_*.
cdef uint16_t[4] CSUM_FIELD = [0, 16, 8, 6]


cdef struct TapIn:
    Source source
    uint64_t looked_ns
    # Frames that were read and are not done: [first, count).  No more is read before they are.
    uint32_t first
    uint32_t count
    Frame frames[32]
    Segment rests[32]
    uint8_t *buffer


cdef struct TapOut:
    FrameSink sink
    uint64_t *row
    int fd
    uint32_t max_frame          # 0: whatever the kernel takes
    uint32_t large_udp          # the kernel knows GSO_UDP_L4


# --- From the kernel ----------------------------------------------------------------------------

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


# --- To the kernel ------------------------------------------------------------------------------

cdef int pieces(const Frame *frame, uint32_t start, uint32_t end, Iovec *iov) noexcept nogil:
    """Bytes [start, end) of the frame, head and segments; returns how many pieces they are."""
    cdef Gather gather
    cdef uint32_t left = end - start, now
    cdef int count = 0
    gather_begin(&gather, frame, start)
    while left:
        if gather.left == 0:
            if gather.segs_left == 0:
                break
            gather.at = gather.segs.data
            gather.left = gather.segs.len
            gather.segs += 1
            gather.segs_left -= 1
            continue
        now = min(left, gather.left)
        iov[count].iov_base = <void *>gather.at
        iov[count].iov_len = now
        count += 1
        left -= now
        gather.left = 0
    return count


cdef void touch(const Iovec *iov, int count) noexcept nogil:
    """Read every page of the pieces: the kernel keeps the fault of a lost page to itself, while
    here it reaches the SIGBUS guard, which tells the device whose memory it was."""
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef int i
    for i in range(count):
        at = <const uint8_t *>iov[i].iov_base
        end = at + iov[i].iov_len
        while at < end:
            load_byte(at)
            at = <const uint8_t *>((<size_t>at | (LEAST_PAGE - 1)) + 1)


cdef int send(int fd, const VnetHeader *header, uint8_t *head, uint32_t head_len,
              const Frame *frame, uint32_t start, uint32_t end) noexcept nogil:
    """One frame: `head`, then bytes [start, end) of `frame`.  SENT, NO_ROOM or an rx column."""
    # Of a frame: the two in front, its head, its segments.
    cdef Iovec iov[FRAME_MAX_SEGMENTS + 3]
    cdef int count
    if frame.num_segs > FRAME_MAX_SEGMENTS:
        return RX_TOO_LONG
    iov[0].iov_base = <void *>header
    iov[0].iov_len = HEADER
    iov[1].iov_base = head
    iov[1].iov_len = head_len
    count = 2
    if start < end:
        count += pieces(frame, start, end, iov + 2)
    if writev(fd, iov, count) >= 0:
        return SENT
    if errno == EAGAIN:
        return NO_ROOM
    if errno == EFAULT:
        touch(iov, count)
        return RX_BAD_ADDRESS       # pages of the sender that are gone
    if errno == EIO:
        return RX_QUEUE_OFF         # the interface is down
    return RX_DISCARDS              # counted without a reason of its own


cdef void fill_sctp(Frame *piece, const Frame *frame) noexcept nogil:
    """SCTP has no partial checksum: the CRC is computed here, from the sender's memory."""
    cdef Iovec iov[FRAME_MAX_SEGMENTS + 3]
    cdef uint32_t start, end, field, crc = 0xFFFFFFFF
    cdef int i, count
    if frame.num_segs > FRAME_MAX_SEGMENTS or not frame_l4_range(piece, &start, &end, &field):
        return
    memset(piece.head + field, 0, 4)
    count = pieces(piece, start, end, iov)
    for i in range(count):
        crc = crc32c_add(crc, <const uint8_t *>iov[i].iov_base, iov[i].iov_len)
    crc = crc32c_final(crc)
    memcpy(piece.head + field, &crc, 4)


cdef void ask_csum(VnetHeader *header, const Frame *frame) noexcept nogil:
    header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
    header.csum_start = frame.l2_len + frame.l3_len
    header.csum_offset = CSUM_FIELD[frame.l4_proto & 3]


cdef int put_large(TapOut *tap, Frame *frame, uint32_t *cursor) noexcept nogil:
    """A frame to be segmented, in pieces as large as Linux takes; nearly always that is one."""
    cdef uint8_t head[FRAME_HEADROOM + FRAME_HEAD_MAX]
    cdef VnetHeader header
    cdef Frame piece = frame[0]
    cdef uint32_t length = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
    cdef uint32_t per_piece = (<uint32_t>TAP_PIECE - frame.l3_len - frame.l4_len) // frame.mss
    cdef uint32_t payload = 0, at = cursor[0], i
    cdef uint32_t number
    cdef int result
    if frame.l4_proto == L4_UDP:
        per_piece = min(per_piece, <uint32_t>UDP_PIECES) if tap.large_udp else 1
    memset(&header, 0, sizeof(header))
    ask_csum(&header, frame)
    header.hdr_len = <uint16_t>length
    header.gso_size = frame.mss
    if frame.l4_proto == L4_UDP and not tap.large_udp:
        header.hdr_len = header.gso_size = 0
    elif frame.l4_proto == L4_UDP:
        header.gso_type = GSO_UDP_L4
    elif frame.flags & FRAME_IPV4:
        header.gso_type = VIRTIO_NET_HDR_GSO_TCPV4
    else:
        header.gso_type = VIRTIO_NET_HDR_GSO_TCPV6
    if (frame.l4_proto == L4_TCP
            and frame.head[frame.l2_len + frame.l3_len + 13] & TCP_CWR):
        header.gso_type |= VIRTIO_NET_HDR_GSO_ECN
    while at < frame.len - length:
        # A piece is a segment of a frame with a larger MSS, which is then sent as a large frame.
        piece = frame[0]
        piece.mss = <uint16_t>(per_piece * frame.mss)
        frame_segment_header(&piece, at, head, &payload)
        if frame.flags & FRAME_IPV4:
            # Linux numbers the packets inside the piece from here on.
            i = frame.l2_len + 4
            number = (<uint32_t>frame.head[i] << 8 | frame.head[i + 1]) + at // frame.mss
            head[i] = <uint8_t>(number >> 8)
            head[i + 1] = <uint8_t>number
        piece.head = head
        piece.head_len = <uint16_t>length
        piece.len = length + payload
        piece.flags |= FRAME_ASK_L4_CSUM
        frame_seed_partial(&piece)
        result = send(tap.fd, &header, head, length, frame, length + at, length + at + payload)
        if result != SENT:
            return result
        at += payload
        cursor[0] = at
    return SENT


cdef void sum_pieces(const Iovec *iov, int count, uint32_t within, uint32_t rest, Csum *body,
                     uint64_t *part, uint32_t *crc) noexcept nogil:
    """Sums of the first `within` bytes and of `rest` more; CRC32c of the former."""
    cdef const uint8_t *at
    cdef uint32_t left, now
    cdef int i = 0
    part[0] = body.sum
    while i < count:
        at = <const uint8_t *>iov[i].iov_base
        left = <uint32_t>iov[i].iov_len
        i += 1
        now = min(left, within)
        csum_add(body, at, now)
        crc[0] = crc32c_add(crc[0], at, now)
        within -= now
        part[0] = body.sum if now else part[0]
        at += now
        now = min(left - now, rest)
        csum_add(body, at, now)
        rest -= now


cdef int put_tunnel(TapOut *tap, const Frame *frame, uint32_t *cursor) noexcept nogil:
    """Packets in packets are cut and finished here, from the sender's memory: few kernels take a
    large one (virtio 1.3, 5.1.6: VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO), and a header with one place for
    a checksum has no room for two."""
    cdef uint8_t head[FRAME_HEADROOM + FRAME_HEAD_MAX]
    cdef Iovec iov[FRAME_MAX_SEGMENTS + 3]
    cdef VnetHeader header
    cdef Sealing sealing
    cdef Csum body
    cdef uint64_t part = 0
    cdef uint32_t at = cursor[0], end, within, rest, crc
    cdef int count, result
    if frame.num_segs > FRAME_MAX_SEGMENTS:
        return RX_TOO_LONG
    # A guest may put a shorter frame in the place of one that was cut in part.
    if (frame.flags & FRAME_ASK_TSO
            and at >= frame.len - frame.l2_len - frame.l3_len - frame.l4_len):
        return SENT
    memset(&header, 0, sizeof(header))
    while True:
        tunnel_begin(frame, at, False, head, &sealing)
        tunnel_parts(&sealing, &within, &rest)
        tunnel_body(&sealing, &body)
        end = sealing.source + sealing.length - sealing.head
        count = pieces(frame, sealing.source, end, iov)
        crc = 0xFFFFFFFF
        if sealing.within.end:
            crc = crc32c_add(crc, head + sealing.within.start,
                             min(sealing.within.end, sealing.head) - sealing.within.start)
        sum_pieces(iov, count, within, rest, &body, &part, &crc)
        tunnel_seal(&sealing, head, part, body.sum, crc32c_final(crc))
        result = send(tap.fd, &header, head, sealing.head, frame, sealing.source, end)
        if result != SENT or not frame.flags & FRAME_ASK_TSO:
            return result
        at += sealing.length - sealing.head
        cursor[0] = at
        if end >= frame.len:
            return SENT


cdef int put_frame(TapOut *tap, Frame *frame, uint32_t *cursor) noexcept nogil:
    """SENT, NO_ROOM or the column of the reason to drop it."""
    cdef uint8_t head[FRAME_HEADROOM + FRAME_HEAD_MAX]
    cdef VnetHeader header
    cdef Frame piece
    cdef uint32_t asked = frame.flags & (FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM | FRAME_ASK_TSO)
    cdef uint32_t longest = frame.len
    if frame.flags & FRAME_ASK_TSO:
        longest = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
        longest += min(frame.len - longest, <uint32_t>frame.mss)
    if tap.max_frame and longest > tap.max_frame:
        return RX_TOO_LONG
    if frame.flags & FRAME_TUNNEL:
        return put_tunnel(tap, frame, cursor)
    if frame.flags & FRAME_ASK_TSO:
        return put_large(tap, frame, cursor)
    memset(&header, 0, sizeof(header))
    if frame.flags & FRAME_L4_GOOD:
        header.flags = VIRTIO_NET_HDR_F_DATA_VALID
    if not asked:
        return send(tap.fd, &header, frame.head, frame.head_len, frame, frame.head_len, frame.len)
    # The head may also go to other destinations: what is changed is a copy.
    if frame.head_len > sizeof(head):
        return RX_TOO_LONG
    piece = frame[0]
    piece.head = head
    memcpy(head, frame.head, frame.head_len)
    frame_seed_partial(&piece)
    if frame.flags & FRAME_ASK_L4_CSUM:
        if frame.l4_proto == L4_SCTP:
            fill_sctp(&piece, frame)
        else:
            ask_csum(&header, frame)
    return send(tap.fd, &header, head, frame.head_len, frame, frame.head_len, frame.len)


cdef uint32_t tap_put(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil:
    cdef TapOut *tap = <TapOut *>sink
    cdef Tally tally
    cdef Frame *frame
    cdef uint32_t accepted = 0, cursor
    cdef int i, result
    tally.used = False
    for i in range(BURST_FRAMES):
        if not mask >> i & 1:
            continue
        frame = &burst.frames[i]
        cursor = frame.cursor
        result = put_frame(tap, frame, &cursor)
        if result == NO_ROOM and not how & PUT_DROP:
            # One destination only: the sender may remember how far the frame got.
            frame.cursor = cursor
            break
        accepted |= <uint32_t>1 << i
        if result == SENT:
            tally_frame(&tally, frame)
            tally.counts[RX_PACKETS] += 1
        else:
            tally_discard(&tally, frame, RX_NO_BUFFER if result == NO_ROOM else result)
    tally_flush(&tally, tap.row)
    return accepted


OPTIONS = {
    "ifname": Option(text),
    "fd": Option(integer(0, 1 << 20)),
    "mtu": Option(integer(68, 65521)),
    "up": Option(switch, True),
}


def create(str name, dict values, rows=None):
    """The port of a TAP interface: made here, taken over by name, or inherited as a descriptor.

    With `mtu` the interface gets that MTU and longer frames are dropped and counted.
    """
    ifname, fd, mtu = values["ifname"], values["fd"], values["mtu"]
    if (ifname is None) == (fd is None):
        raise ConfigError(f"{name}: a TAP is told by one of ifname= and fd=")
    fd, ifname = tun.open_tap(name, ifname) if fd is None else tun.take_tap(name, fd)
    try:
        if mtu is not None:
            tun.set_mtu(name, ifname, mtu)
        if values["up"]:
            tun.set_up(ifname)
    except ConfigError:
        os.close(fd)
        raise
    max_frame = 0 if mtu is None else mtu + FRAME_MIN_LEN + VLAN_TAGS
    return Tap(name, fd, ifname, max_frame, rows, tun.takes_large_udp(fd))


cdef class Tap(Port):
    """Frames through a descriptor that reads and writes like a TAP's; it is the port's from here.

    `max_frame`: what is longer, segmented frames by their segments, is dropped; 0: no limit.
    `large_udp`: UDP frames to be segmented are not cut here.
    """

    cdef TapIn _in
    cdef TapOut _out
    cdef readonly str ifname

    def __cinit__(self, *args, **kwargs):
        self._in.source.fd = -1
        self._in.buffer = <uint8_t *>malloc(TAP_BUFFER)
        if self._in.buffer == NULL:
            raise MemoryError

    def __init__(self, str name, int fd, str ifname, uint32_t max_frame=0, rows=None,
                 bint large_udp=True):
        super().__init__(name, rows)
        self.ifname = ifname
        self._in.source.fd = fd
        self._in.source.take = tap_take
        self._in.source.done = tap_done
        self._in.source.row = self.tx_row
        self._out.sink.put = tap_put
        self._out.row = self.rx_row
        self._out.fd = fd
        self._out.max_frame = max_frame
        self._out.large_udp = large_udp
        self.sink = &self._out.sink

    @property
    def fd(self) -> int:
        """The descriptor; -1 after close()."""
        return self._in.source.fd

    def __dealloc__(self):
        self.close()
        free(self._in.buffer)

    cpdef list active_sources(self):
        return [] if self._in.source.fd < 0 else [SourceRef.of(&self._in.source, self, 0)]

    def close(self):
        """Close the descriptor; an interface that was made for the port goes with it."""
        if self._in.source.fd >= 0:
            os.close(self._in.source.fd)
            self._in.source.fd = -1
            self._out.fd = -1
