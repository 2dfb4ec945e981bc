"""The TAP port's writing side: frames to the kernel, with as much left to it as it takes."""

from libc.errno cimport EAGAIN, EFAULT, EIO, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from emuiavf.datapath._copy cimport Gather, gather_begin, gather_piece
from emuiavf.datapath._frame cimport (
    BURST_FRAMES, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_HEADROOM,
    FRAME_HEAD_MAX, FRAME_IPV4, FRAME_L4_GOOD, FRAME_MAX_SEGMENTS, FRAME_TUNNEL, L4_SCTP, L4_TCP,
    L4_UDP, PUT_DROP, RX_BAD_ADDRESS, RX_DISCARDS, RX_NO_BUFFER, RX_PACKETS, RX_QUEUE_OFF,
    RX_TOO_LONG, Burst, Frame, FrameSink,
)
from emuiavf.datapath._offload cimport (
    Csum, crc32c_add, crc32c_final, csum_add, frame_l4_range,
)
from emuiavf.datapath._segment cimport frame_seed_partial, frame_segment_header
from emuiavf.datapath._tunnel cimport (
    Sealing, tunnel_begin, tunnel_body, tunnel_parts, tunnel_seal,
)
from emuiavf.ports._port cimport Tally, tally_discard, tally_flush, tally_frame
from emuiavf.ports._tap_header cimport (
    CSUM_FIELD, GSO_UDP_L4, HEADER, VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VnetHeader,
)


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

cdef enum:
    LEAST_PAGE = 4096           # no machine has smaller ones
    TAP_PIECE = 65535           # IP bytes of one frame that Linux takes
    UDP_PIECES = 64             # ... and datagrams of one large UDP frame (its limit is 128)
    TCP_CWR = 0x80
    SENT = -1
    NO_ROOM = -2


cdef int pieces(const Frame *frame, uint32_t start, uint32_t end, Iovec *iov) noexcept nogil:
    """Bytes [start, end) of the frame, head and segments; returns how many pieces they are."""
    cdef Gather gather
    cdef const uint8_t *at = NULL
    cdef uint32_t left = end - start, now
    cdef int count = 0
    gather_begin(&gather, frame, start)
    while left:
        now = gather_piece(&gather, left, &at)
        if now == 0:
            break
        iov[count].iov_base = <void *>at
        iov[count].iov_len = now
        count += 1
        left -= now
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
