"""What benches hold us against: the least that shared memory and a socket cost.

`CopyRing` (bench/limit.py) is one ring with one producer and one consumer.  A descriptor is 16
bytes (sequence number, length) and tells of one buffer.  The producer copies a frame into the
buffer, the consumer copies it out; nothing is translated, judged or counted.

`echo` and `time_round_trips` (bench/bench_control.py) are the two ends of a socket.  Nothing in the
product imports this.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from emuiavf._atomic cimport (
    cpu_pause, load_acquire_u32, load_relaxed_u32, store_release_u32, store_relaxed_u32,
)
from emuiavf.datapath._offload cimport frame_copy


cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *data, size_t size, int flags) noexcept
    ssize_t send(int fd, const void *data, size_t size, int flags) noexcept
    enum:
        MSG_NOSIGNAL


cdef extern from "wait.h" nogil:
    uint64_t monotonic_ns() noexcept


cdef enum:
    BURST = 32
    MESSAGE = 256
    LARGEST = 2048
    # Offsets in the memory: each index on cache lines that only one side writes.
    HEAD_AT = 0
    TAIL_AT = 256
    STOP_AT = 512
    DESC_AT = 4096


cdef struct Desc:
    uint64_t number
    uint64_t size


cdef struct Ring:
    uint32_t *head       # descriptors produced; the producer's
    uint32_t *tail       # descriptors consumed; the consumer's
    uint32_t *stop
    Desc *desc
    uint8_t *buffers
    uint32_t slots       # a power of two
    uint32_t in_flight   # at most so many frames between the two
    uint32_t stride
    uint32_t size
    uint64_t wrong


cdef uint64_t _produce(Ring *ring) noexcept nogil:
    """Fill the ring until it is told to stop; returns the frames produced."""
    cdef uint8_t frame[LARGEST]
    cdef uint64_t number = 0
    cdef uint32_t head = 0, room, at, i
    memset(frame, 0x5a, sizeof(frame))
    while not load_relaxed_u32(ring.stop):
        room = ring.in_flight - (head - load_acquire_u32(ring.tail))
        if room == 0:
            cpu_pause()
            continue
        room = room if room < BURST else BURST
        for i in range(room):
            at = (head + i) & (ring.slots - 1)
            frame_copy(ring.buffers + <size_t>at * ring.stride, frame, ring.size)
            ring.desc[at].number = number
            ring.desc[at].size = ring.size
            number += 1
        head += room
        store_release_u32(ring.head, head)
    return number


cdef uint64_t _consume(Ring *ring) noexcept nogil:
    """Empty the ring until it is told to stop; returns the frames consumed."""
    cdef uint8_t frame[LARGEST]
    cdef uint64_t number = 0
    cdef uint32_t tail = 0, ready, at, i
    while not load_relaxed_u32(ring.stop):
        ready = load_acquire_u32(ring.head) - tail
        if ready == 0:
            cpu_pause()
            continue
        ready = ready if ready < BURST else BURST
        for i in range(ready):
            at = (tail + i) & (ring.slots - 1)
            if ring.desc[at].number != number or ring.desc[at].size > LARGEST:
                ring.wrong += 1
                continue
            frame_copy(frame, ring.buffers + <size_t>at * ring.stride, ring.desc[at].size)
            ring.wrong += frame[0] != 0x5a or frame[ring.size - 1] != 0x5a
            number += 1
        tail += ready
        store_release_u32(ring.tail, tail)
    return number


cdef class CopyRing:
    """One ring in `memory`, a shared map of zeros; `produce` and `consume` run in a thread each.

    `slots` descriptors (a power of two) with buffers `stride` bytes apart, frames of `size` bytes,
    at most `in_flight` of them between the two sides.
    """

    cdef Ring ring
    cdef uint8_t[::1] _memory

    def __init__(self, uint8_t[::1] memory, *, uint32_t slots, uint32_t stride, uint32_t size,
                 uint32_t in_flight):
        if slots & (slots - 1) or not 1 <= in_flight <= slots:
            raise ValueError(f"{slots} slots, {in_flight} in flight: a power of two, at most that")
        if not 1 <= size <= stride or size > LARGEST:
            raise ValueError(f"{size} bytes every {stride}: at most {LARGEST} and the stride")
        if memory.shape[0] < self.memory_needed(slots, stride):
            raise ValueError(f"{memory.shape[0]} bytes, needs {self.memory_needed(slots, stride)}")
        self._memory = memory
        memset(&self.ring, 0, sizeof(Ring))
        self.ring.head = <uint32_t *>&memory[HEAD_AT]
        self.ring.tail = <uint32_t *>&memory[TAIL_AT]
        self.ring.stop = <uint32_t *>&memory[STOP_AT]
        self.ring.desc = <Desc *>&memory[DESC_AT]
        self.ring.buffers = &memory[DESC_AT] + <size_t>slots * sizeof(Desc)
        self.ring.slots = slots
        self.ring.in_flight = in_flight
        self.ring.stride = stride
        self.ring.size = size

    @staticmethod
    def memory_needed(uint32_t slots, uint32_t stride) -> int:
        """Bytes for the indexes, the descriptors and the buffers."""
        return DESC_AT + slots * (sizeof(Desc) + stride)

    def produce(self) -> int:
        """Frames produced until `stop`."""
        cdef uint64_t frames
        with nogil:
            frames = _produce(&self.ring)
        return frames

    def consume(self) -> int:
        """Frames consumed until `stop`; RuntimeError when one was not what was produced."""
        cdef uint64_t frames
        with nogil:
            frames = _consume(&self.ring)
        if self.ring.wrong:
            raise RuntimeError(f"{self.ring.wrong} frames were wrong")
        return frames

    def stop(self) -> None:
        """End both sides; for a third thread."""
        store_relaxed_u32(self.ring.stop, 1)


cdef bint _receive(int fd, uint8_t *data, size_t size) noexcept nogil:
    """The next `size` bytes; False when there are no more."""
    cdef size_t at = 0
    cdef ssize_t got
    while at < size:
        got = recv(fd, data + at, size - at, 0)
        if got <= 0 and not (got < 0 and errno == EINTR):
            return False
        at += max(got, 0)
    return True


cdef uint64_t _round_trip(int fd, const uint8_t *request, size_t size, size_t reply) noexcept nogil:
    """Nanoseconds from a request to its answer; 0 when there is none."""
    cdef uint8_t data[MESSAGE]
    cdef uint64_t began = monotonic_ns()
    if send(fd, request, size, MSG_NOSIGNAL) != <ssize_t>size or not _receive(fd, data, reply):
        return 0
    return monotonic_ns() - began


def echo(int fd, size_t size, const uint8_t[::1] reply) -> None:
    """Answer every `size` bytes of a blocking socket with `reply` until its other end is closed."""
    cdef uint8_t data[MESSAGE]
    cdef ssize_t length = reply.shape[0]
    if not 1 <= size <= MESSAGE:
        raise ValueError(f"{size} bytes: 1 to {MESSAGE}")
    with nogil:
        while _receive(fd, data, size):
            if send(fd, &reply[0], length, MSG_NOSIGNAL) != length:
                break


def time_round_trips(int fd, const uint8_t[::1] request, size_t reply, int count) -> list[int]:
    """Nanoseconds of each of `count` round trips on a blocking socket; OSError when one fails."""
    cdef uint64_t took
    cdef list found = []
    if not 1 <= reply <= MESSAGE:
        raise ValueError(f"{reply} bytes: 1 to {MESSAGE}")
    for _ in range(count):
        with nogil:
            took = _round_trip(fd, &request[0], request.shape[0], reply)
        if took == 0:
            raise OSError("the other end has closed")
        found.append(took)
    return found
