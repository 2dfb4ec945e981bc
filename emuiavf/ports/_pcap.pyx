"""The pcap port: writes every frame that comes to a capture file, as it would be on a wire.

Workers copy into one of two buffers; a thread of the port writes the other one to the file, so a
slow disk costs records and never a worker's time.  Frames with work left to do are finished and
cut first.  Format: pcap with nanosecond time stamps, link type 1 (draft-ietf-opsawg-pcap).
"""

import logging
import os
import struct
import threading

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from emuiavf._atomic cimport spin_lock, spin_unlock
from emuiavf.datapath._copy cimport Gather, emit_frame, emit_segment, gather_begin
from emuiavf.datapath._frame cimport (
    BURST_FRAMES, FRAME_ASK_IP_CSUM, FRAME_ASK_L4_CSUM, FRAME_ASK_TSO, FRAME_HEADROOM,
    FRAME_HEAD_MAX, PUT_DROP, RX_NO_BUFFER, RX_PACKETS, RX_QUEUE_OFF, RX_TOO_LONG, Burst, Frame,
    FrameSink, Segment,
)
from emuiavf.ports._port cimport Port, Tally, tally_discard, tally_flush, tally_frame

from emuiavf.emudev.info import RxFilter
from emuiavf.emudev.vdev import Option, text
from emuiavf.errors import ConfigError


cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void *buffer, size_t count) noexcept

cdef extern from "<time.h>" nogil:
    ctypedef struct Timespec "struct timespec":
        long tv_sec
        long tv_nsec
    int CLOCK_REALTIME
    int clock_gettime(int clock, Timespec *out) noexcept

cdef extern from "wait.h" nogil:
    void event_signal(int fd) noexcept

cdef enum:
    # Larger than one frame of 255 KiB cut into the most segments that the parser lets pass.
    BUFFER_SIZE = 4 << 20
    RECORD_HEADER = 16

# Magic of nanosecond stamps, version 2.4, largest record, link type Ethernet.
FILE_HEADER = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)

_log = logging.getLogger(__name__)


cdef struct PcapOut:
    FrameSink sink
    uint64_t *row
    uint32_t lock       # guards what follows
    uint32_t failed     # the file takes no more
    uint32_t used       # bytes of `buffer`
    uint8_t *buffer
    int event_fd        # written when `buffer` is no longer empty


cdef struct Record:
    uint32_t seconds
    uint32_t nanoseconds
    uint32_t captured
    uint32_t length


cdef uint8_t *add_record(PcapOut *pcap, const Timespec *now, uint32_t length) noexcept nogil:
    """Room for one frame of `length` bytes behind its record header."""
    cdef Record record
    cdef uint8_t *place = pcap.buffer + pcap.used
    record.seconds = <uint32_t>now.tv_sec
    record.nanoseconds = <uint32_t>now.tv_nsec
    record.captured = length
    record.length = length
    memcpy(place, &record, RECORD_HEADER)
    pcap.used += RECORD_HEADER + length
    return place + RECORD_HEADER


cdef void add_segments(PcapOut *pcap, const Timespec *now, Frame *frame, uint32_t header,
                       uint32_t payload) noexcept nogil:
    cdef Gather gather
    cdef Segment into[2]
    cdef uint32_t at = 0, size
    gather_begin(&gather, frame, header)
    into[1].data = NULL
    into[1].len = 0
    while at < payload:
        size = min(payload - at, <uint32_t>frame.mss)
        into[0].len = header + size
        into[0].data = add_record(pcap, now, into[0].len)
        emit_segment(frame, at, &gather, 0, into)
        at += size


cdef int put_frame(PcapOut *pcap, const Timespec *now, const Frame *frame) noexcept nogil:
    """1 when the frame is in the buffer, 0 when there is no room for it."""
    cdef uint8_t head[FRAME_HEADROOM + FRAME_HEAD_MAX]
    cdef Frame copy = frame[0]
    cdef Segment into[2]
    cdef uint32_t room = BUFFER_SIZE - pcap.used, header, payload, segments
    if frame.flags & FRAME_ASK_TSO:
        header = <uint32_t>frame.l2_len + frame.l3_len + frame.l4_len
        payload = frame.len - header
        segments = (payload + frame.mss - 1) // frame.mss
        if segments * (header + RECORD_HEADER) + payload > room:
            return 0
        add_segments(pcap, now, &copy, header, payload)
        return 1
    if frame.len + RECORD_HEADER > room:
        return 0
    if frame.flags & (FRAME_ASK_IP_CSUM | FRAME_ASK_L4_CSUM):
        # The head may also go to other destinations: what is finished is a copy.
        memcpy(head, frame.head, frame.head_len)
        copy.head = head
    into[0].len = frame.len
    into[0].data = add_record(pcap, now, frame.len)
    into[1].data = NULL
    into[1].len = 0
    emit_frame(&copy, 0, into, False)
    return 1


cdef uint32_t pcap_put(FrameSink *sink, Burst *burst, uint32_t mask, uint32_t how) noexcept nogil:
    cdef PcapOut *pcap = <PcapOut *>sink
    cdef Tally tally
    cdef Timespec now
    cdef Frame *frame
    cdef uint32_t accepted = 0
    cdef bint was_empty
    cdef int i
    tally.used = False
    clock_gettime(CLOCK_REALTIME, &now)
    spin_lock(&pcap.lock)
    was_empty = pcap.used == 0
    for i in range(BURST_FRAMES):
        if not mask >> i & 1:
            continue
        frame = &burst.frames[i]
        if frame.head_len > FRAME_HEADROOM + FRAME_HEAD_MAX:
            tally_discard(&tally, frame, RX_TOO_LONG)
        elif pcap.failed:
            tally_discard(&tally, frame, RX_QUEUE_OFF)
        elif put_frame(pcap, &now, frame):
            tally_frame(&tally, frame)
            tally.counts[RX_PACKETS] += 1
        elif how & PUT_DROP:
            tally_discard(&tally, frame, RX_NO_BUFFER)
        else:
            break
        accepted |= <uint32_t>1 << i
    was_empty = was_empty and pcap.used != 0
    spin_unlock(&pcap.lock)
    if was_empty:
        event_signal(pcap.event_fd)
    tally_flush(&tally, pcap.row)
    return accepted


cdef int write_all(int fd, const uint8_t *data, size_t count) noexcept nogil:
    """0 or an errno."""
    cdef ssize_t done
    while count:
        done = write(fd, data, count)
        if done < 0:
            if errno == EINTR:
                continue
            return errno
        data += done
        count -= <size_t>done
    return 0


cdef class Pcap(Port):
    """A capture file (or FIFO) that every frame of its connection is written to."""

    OPTIONS = {"path": Option(text, required=True)}

    cdef PcapOut _out
    cdef uint8_t *_spare        # the buffer that is being written to the file
    cdef int _fd
    cdef bint _closing
    cdef object _thread
    cdef readonly str path

    def __cinit__(self, *args, **kwargs):
        self._fd = -1
        self._out.event_fd = -1
        self._out.buffer = <uint8_t *>malloc(BUFFER_SIZE)
        self._spare = <uint8_t *>malloc(BUFFER_SIZE)
        if self._out.buffer == NULL or self._spare == NULL:
            raise MemoryError

    def __init__(self, str name, dict values, rows=None):
        super().__init__(name, rows)
        self.path = values["path"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._fd = os.open(self.path, flags, 0o644)
            os.write(self._fd, FILE_HEADER)
        except OSError as error:
            self._close_fds()
            raise ConfigError(f"{name}: path={self.path}: {error.strerror}") from None
        self._out.event_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._out.sink.put = pcap_put
        self._out.row = self.rx_row
        self.sink = &self._out.sink
        # In a switch it sees what everybody sends, not only what has no better place.
        self.rx_filter = RxFilter(promisc_unicast=True, promisc_multicast=True)
        self._thread = threading.Thread(target=self._write, name=f"pcap-{name}", daemon=True)
        self._thread.start()

    def __dealloc__(self):
        self._close_fds()
        free(self._out.buffer)
        free(self._spare)

    def _write(self):
        """The writing thread: what workers have left, as soon as there is something."""
        cdef size_t count
        cdef int error = 0
        while True:
            os.eventfd_read(self._out.event_fd)
            # Read before the buffer: what came before close() is written.
            closing = self._closing
            spin_lock(&self._out.lock)
            self._out.buffer, self._spare = self._spare, self._out.buffer
            count = self._out.used
            self._out.used = 0
            spin_unlock(&self._out.lock)
            if not error:
                with nogil:
                    error = write_all(self._fd, self._spare, count)
                    if error:
                        self._out.failed = 1
                if error:
                    _log.error("%s: %s: %s; recording ends", self.name, self.path,
                               os.strerror(error))
            if closing:
                return

    def close(self):
        """Write what is buffered and close the file."""
        if self._thread is None:
            return
        self._closing = True
        event_signal(self._out.event_fd)
        self._thread.join()
        self._thread = None
        self._close_fds()

    def _close_fds(self):
        for fd in (self._fd, self._out.event_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._out.event_fd = -1
