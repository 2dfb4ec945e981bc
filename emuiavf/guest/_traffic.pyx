"""Traffic generator and checker: numbered, time-stamped and checksummed frames, without the GIL.

A flow leaves one Tx ring and is due in one Rx ring of the same process; _pattern.pxd has the layout
of its frames.
Never more frames are under way than the receiver has buffers posted, so a lost frame was lost.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from emuiavf._atomic cimport cpu_pause
from emuiavf._bits cimport prefetch_read
from emuiavf._pattern cimport (
    PRIME,
    STAMPED,
    Lanes,
    Stamp,
    Stream,
    fill,
    lanes_add_bytes,
    lanes_begin,
    lanes_fold,
    stamp_of,
    stream_head,
    stream_init,
)
from emuiavf.guest._pmd cimport (
    REARM_EVERY,
    RX_DD,
    TX_EOP,
    TX_ICRC,
    RxRing,
    RxState,
    TxRing,
    TxState,
    ring_next,
    rx_buffer,
    rx_frame,
    rx_error,
    rx_length,
    rx_posted,
    rx_qword1,
    rx_rearm,
    tx_buffer,
    tx_claim,
    tx_doorbell,
    tx_free,
    tx_reclaim,
    tx_write,
)

import numpy as np

cdef extern from * nogil:
    int __builtin_clzll(unsigned long long value) noexcept

cdef extern from "sched.h" nogil:
    int sched_yield() noexcept

cdef enum:
    BURST = 32
    HEAD = STAMPED
    FLOW_AT = 58
    STEP_BITS = 4            # latency histogram: 16 steps per power of two
    # Nothing to do for so long: the core is offered to others.  Longer than a worker takes for the
    # frames under way, because who yields to a busy neighbour is back after milliseconds.
    SPIN_NS = 20000

LATENCY_BUCKETS = 1024
MIN_SIZE = HEAD
MAX_SIZE = 9728


cdef struct FlowState:
    TxState *tx
    RxState *rx
    uint64_t next_seq        # number of the next frame to send
    uint64_t expected        # one more than the highest number received
    uint64_t sent
    uint64_t sent_bytes
    uint64_t received
    uint64_t received_bytes
    uint64_t lost
    uint64_t reordered
    uint64_t corrupted
    uint64_t misdirected
    uint64_t random
    uint32_t min_size
    uint32_t max_size
    uint32_t tx_slots        # descriptors of the largest frame
    uint32_t rx_slots
    Stream stream
    uint8_t flip             # damage the next frame
    uint8_t skip             # leave out the next number
    uint64_t latency[1024]


cdef struct Port:
    RxState *rx
    FlowState *blamed        # whom a frame that cannot be attributed counts against


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef inline uint32_t next_size(FlowState *flow) noexcept nogil:
    if flow.min_size == flow.max_size:
        return flow.min_size
    flow.random ^= flow.random << 13
    flow.random ^= flow.random >> 7
    flow.random ^= flow.random << 17
    return flow.min_size + <uint32_t>(flow.random % (flow.max_size - flow.min_size + 1))


cdef void send_frame(FlowState *flow, uint64_t now) noexcept nogil:
    """Build the next frame in the ring's buffers and write its descriptors."""
    cdef TxState *tx = flow.tx
    cdef uint32_t size = next_size(flow), left = size, piece
    cdef uint8_t *start = tx_buffer(tx)
    cdef uint8_t *data
    cdef uint64_t seed = (flow.next_seq + 1) * PRIME + flow.stream.number
    cdef uint64_t[8] head
    cdef Lanes lanes
    stream_head(&flow.stream, head, size, flow.next_seq, now)
    lanes_begin(&lanes, head, size)
    piece = min(left, tx.buf_size)
    if piece > HEAD:
        fill(start + HEAD, piece - HEAD, seed)
        lanes_add_bytes(&lanes, start + HEAD, piece - HEAD)
    left -= piece
    while left > 0:
        tx_write(tx, TX_ICRC, piece)
        piece = min(left, tx.buf_size)
        data = tx_buffer(tx)
        fill(data, piece, seed + left)
        lanes_add_bytes(&lanes, data, piece)
        left -= piece
    head[7] |= <uint64_t>lanes_fold(&lanes) << 32
    memcpy(start, head, HEAD)
    if flow.flip:
        # Behind the checksum's back, as damage on the way would be.
        start[FLOW_AT - 2] ^= 1
        flow.flip = 0
    tx_write(tx, TX_ICRC | TX_EOP, piece)
    flow.next_seq += 1
    flow.sent += 1
    flow.sent_bytes += size


cdef inline uint64_t in_flight(const FlowState *flows, uint32_t num_flows,
                               const RxState *rx) noexcept nogil:
    """Frames sent to one Rx ring and neither received nor known to be lost."""
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(num_flows):
        if flows[i].rx == rx:
            total += flows[i].next_seq - flows[i].expected
    return total


cdef uint32_t send_burst(FlowState *flows, uint32_t num_flows, FlowState *flow,
                         uint64_t window) noexcept nogil:
    """Send what the receiver's posted buffers, the window and the Tx ring allow; up to BURST."""
    cdef uint64_t flying = in_flight(flows, num_flows, flow.rx)
    cdef uint64_t room = rx_posted(flow.rx) // flow.rx_slots
    cdef uint64_t now
    cdef uint32_t count, _i
    if window and room > window:
        room = window
    if room <= flying:
        return 0
    if tx_free(flow.tx) < BURST * flow.tx_slots:
        tx_reclaim(flow.tx)
    count = <uint32_t>min(min(room - flying, <uint64_t>BURST),
                          <uint64_t>(tx_free(flow.tx) // flow.tx_slots))
    if count == 0:
        return 0
    if flow.skip:
        flow.next_seq += 1
        flow.skip = 0
    now = now_ns()
    tx_claim(flow.tx, count * flow.tx_slots)
    for _i in range(count):
        send_frame(flow, now)
    tx_doorbell(flow.tx)
    return count


cdef inline uint32_t latency_bucket(uint64_t ns) noexcept nogil:
    cdef uint32_t power
    if ns < 1 << STEP_BITS:
        return <uint32_t>ns
    power = 63 - __builtin_clzll(ns) - STEP_BITS
    return ((power + 1) << STEP_BITS) + <uint32_t>((ns >> power) & ((1 << STEP_BITS) - 1))


cdef void judge(FlowState *flows, uint32_t num_flows, Port *port, uint32_t slots,
                uint64_t now) noexcept nogil:
    """Check the oldest frame of a ring and count it; it takes `slots` descriptors."""
    cdef RxState *rx = port.rx
    cdef uint32_t slot = rx.next, i, _i, size = 0, piece, sum, error
    cdef uint64_t qword1 = 0, seq
    cdef Stamp stamp
    cdef uint64_t[8] words
    cdef const uint64_t *head
    cdef Lanes lanes
    cdef FlowState *flow
    for _i in range(slots):
        qword1 = rx_qword1(rx, slot)
        size += rx_length(rx, slot)
        slot = ring_next(slot, rx.ring_len)
    error = rx_error(rx, qword1)
    slot = rx.next
    piece = rx_length(rx, slot)
    if piece < HEAD:
        port.blamed.corrupted += 1
        return
    head = <const uint64_t *>rx_buffer(rx, slot)
    for i in range(8):
        words[i] = head[i]
    stamp = stamp_of(words)
    lanes_begin(&lanes, words, size)
    lanes_add_bytes(&lanes, rx_buffer(rx, slot) + HEAD, piece - HEAD)
    for _i in range(1, slots):
        slot = ring_next(slot, rx.ring_len)
        lanes_add_bytes(&lanes, rx_buffer(rx, slot), rx_length(rx, slot))
    sum = lanes_fold(&lanes)
    flow = &flows[stamp.flow] if stamp.flow < num_flows else port.blamed
    seq = stamp.seq
    if sum != stamp.check or error:
        flow.corrupted += 1
        # Damaged, but not lost: its number still counts when it is the one that was due.
        if seq != flow.expected:
            return
    if flow.rx != rx:
        flow.misdirected += 1
    flow.received += 1
    flow.received_bytes += size
    if seq >= flow.expected and seq < flow.next_seq:
        flow.lost += seq - flow.expected
        flow.expected = seq + 1
    else:
        flow.reordered += 1
        if flow.lost:
            flow.lost -= 1
    flow.latency[latency_bucket(now - stamp.sent_ns if now > stamp.sent_ns else 0)] += 1


cdef uint32_t receive_burst(FlowState *flows, uint32_t num_flows, Port *port) noexcept nogil:
    cdef RxState *rx = port.rx
    cdef uint32_t slot = rx.next, ready = 0, limit = rx_posted(rx), slots, count = 0
    cdef uint64_t now
    if limit > 2 * BURST:
        limit = 2 * BURST
    while ready < limit and rx_qword1(rx, slot) & RX_DD:
        prefetch_read(rx_buffer(rx, slot))
        slot = ring_next(slot, rx.ring_len)
        ready += 1
    if ready == 0:
        return 0
    now = now_ns()
    while count < BURST:
        slots = rx_frame(rx)
        if slots == 0:
            break
        judge(flows, num_flows, port, slots, now)
        rx.next = (rx.next + slots) if rx.next + slots < rx.ring_len \
            else rx.next + slots - rx.ring_len
        count += 1
    rx_rearm(rx, REARM_EVERY)
    return count


cdef class Traffic:
    """Flows between rings of this process.  Times are bounded slices; counters are read between.

    `flows`: objects with `tx` (TxRing), `rx` (RxRing), `header` (42 bytes), `min_size` and
    `max_size`.  `window` bounds the frames under way to one Rx ring (0: its posted buffers).
    `flush` is called after every turn when doorbells trap: it sends the tails as messages.
    """

    cdef FlowState *flows
    cdef Port *ports
    cdef uint32_t num_flows
    cdef uint32_t num_ports
    cdef uint64_t window
    cdef object _flush
    cdef object _rings

    def __cinit__(self, flows, *, int window=0, flush=None):
        self.num_flows = len(flows)
        self.flows = <FlowState *>calloc(max(1, len(flows)), sizeof(FlowState))
        self.ports = <Port *>calloc(max(1, len(flows)), sizeof(Port))
        if self.flows == NULL or self.ports == NULL:
            raise MemoryError
        self.window = window
        self._flush = flush
        # The pointers point into the rings.
        self._rings = [(flow.tx, flow.rx) for flow in flows]
        for number, flow in enumerate(flows):
            self._add(number, flow)

    def __dealloc__(self):
        free(self.flows)
        free(self.ports)

    cdef _add(self, int number, object spec):
        cdef FlowState *flow = &self.flows[number]
        cdef TxRing tx = spec.tx
        cdef RxRing rx = spec.rx
        cdef bytes header = spec.header
        cdef uint32_t i
        if not MIN_SIZE <= spec.min_size <= spec.max_size <= MAX_SIZE:
            raise ValueError(f"sizes {spec.min_size}..{spec.max_size}: {MIN_SIZE}..{MAX_SIZE}")
        flow.tx, flow.rx = &tx.state, &rx.state
        stream_init(&flow.stream, header, number)
        flow.min_size, flow.max_size = spec.min_size, spec.max_size
        flow.tx_slots = (flow.max_size + flow.tx.buf_size - 1) // flow.tx.buf_size
        flow.rx_slots = (flow.max_size + flow.rx.buf_size - 1) // flow.rx.buf_size
        flow.random = 0x2545F4914F6CDD1D + number
        for i in range(self.num_ports):
            if self.ports[i].rx == flow.rx:
                return
        self.ports[self.num_ports].rx = flow.rx
        self.ports[self.num_ports].blamed = flow
        self.num_ports += 1

    cdef uint32_t turn(self, bint sending) noexcept nogil:
        """One pass over every ring; returns how many frames moved."""
        cdef uint32_t i, moved = 0
        if sending:
            for i in range(self.num_flows):
                moved += send_burst(self.flows, self.num_flows, &self.flows[i], self.window)
        for i in range(self.num_ports):
            moved += receive_burst(self.flows, self.num_flows, &self.ports[i])
        return moved

    cdef bint flying(self) noexcept nogil:
        cdef uint32_t i
        for i in range(self.num_flows):
            if self.flows[i].next_seq != self.flows[i].expected:
                return True
        return False

    cdef void spin(self, uint64_t deadline, uint64_t turns, bint sending) noexcept nogil:
        """Turn until `deadline`, `turns` have passed, or (not sending) nothing is under way."""
        cdef uint64_t now = now_ns(), busy = now
        while turns > 0 and now < deadline and (sending or self.flying()):
            turns -= 1
            if self.turn(sending):
                busy = now
            elif now - busy < SPIN_NS:
                cpu_pause()
            else:
                # The device's worker may be waiting for this very core.
                sched_yield()
            now = now_ns()

    def run(self, double seconds) -> None:
        """Send and receive for `seconds`."""
        self._run(seconds, True)

    def drain(self, double seconds) -> bool:
        """Receive until nothing is under way, at most `seconds`; True when all has arrived."""
        self._run(seconds, False)
        return not self.flying()

    def _run(self, double seconds, bint sending):
        cdef uint64_t deadline = now_ns() + <uint64_t>(seconds * 1e9)
        if self._flush is None:
            with nogil:
                self.spin(deadline, <uint64_t>-1, sending)
            return
        while now_ns() < deadline and (sending or self.flying()):
            with nogil:
                self.spin(deadline, 1, sending)
            self._flush()

    def resync(self) -> None:
        """Forget the frames under way: for use after a reset of the rings, which drops them."""
        cdef uint32_t i
        for i in range(self.num_flows):
            self.flows[i].expected = self.flows[i].next_seq

    def flip(self, uint32_t flow) -> None:
        """Damage one byte of the next frame of a flow."""
        self._check(flow)
        self.flows[flow].flip = 1

    def skip(self, uint32_t flow) -> None:
        """Leave one sequence number of a flow out."""
        self._check(flow)
        self.flows[flow].skip = 1

    def counters(self, uint32_t flow) -> dict:
        """The counters of one flow by name; `lost` includes what is under way after drain()."""
        self._check(flow)
        cdef FlowState *state = &self.flows[flow]
        return {
            "sent": state.sent,
            "sent_bytes": state.sent_bytes,
            "received": state.received,
            "received_bytes": state.received_bytes,
            "lost": state.lost,
            "reordered": state.reordered,
            "corrupted": state.corrupted,
            "misdirected": state.misdirected,
            "in_flight": state.next_seq - state.expected,
        }

    def latencies(self, uint32_t flow):
        """Histogram of one flow: counts per bucket; `bucket_ns` says what a bucket means."""
        self._check(flow)
        cdef uint64_t[::1] view = <uint64_t[:LATENCY_BUCKETS]>self.flows[flow].latency
        return np.array(view, dtype=np.uint64)

    def _check(self, uint32_t flow):
        if flow >= self.num_flows:
            raise IndexError(f"flow {flow} of {self.num_flows}")


def bucket_ns(int bucket) -> int:
    """The lowest latency that falls into a bucket of the histogram, in ns."""
    if bucket < 1 << STEP_BITS:
        return bucket
    power = (bucket >> STEP_BITS) - 1
    return ((1 << STEP_BITS) + (bucket & ((1 << STEP_BITS) - 1))) << power
