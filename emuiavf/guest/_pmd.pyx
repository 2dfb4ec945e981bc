"""Poll-mode rings of our own guest driver: Tx and Rx descriptors over shared memory.

Knows descriptors, buffers and doorbell words; knows neither virtchnl nor where the doorbell comes
from.  Facts: AVF descriptors, `docs/architecture.md`.  Traffic loops use the leaves in `_pmd.pxd`.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyObject_GetBuffer, PyBuffer_Release, Py_buffer
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from emuiavf._atomic cimport store_release_u32

from emuiavf._rxdid import Rxdid
from emuiavf.errors import StateError

BUFFER_SKEW = 64
"""Bytes between two buffers: strides of an odd number of lines spread over all sets of a cache."""


def buffer_stride(buf_size: int) -> int:
    """Bytes from one buffer of a ring to the next."""
    return buf_size + BUFFER_SKEW


cdef uint8_t *address_of(object view, uint64_t needed) except NULL:
    """Address of a writable buffer of at least `needed` bytes; the caller keeps `view` alive."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(view, &buffer, PyBUF_WRITABLE)
    cdef uint8_t *address = <uint8_t *>buffer.buf
    cdef uint64_t size = <uint64_t>buffer.len
    # The reference to the view, which itself holds an export of its memory, keeps it mapped.
    PyBuffer_Release(&buffer)
    if size < needed:
        raise ValueError(f"{size} bytes of memory, the ring needs {needed}")
    return address


cdef class Ring:
    """What a ring of either direction is laid into."""

    def __init__(self, int index, object ring, object buffers, int ring_len, int buf_size,
                 object doorbell):
        if ring_len < 64 or ring_len > 8160 or ring_len % 32:
            raise ValueError(f"ring_len={ring_len}: a multiple of 32 from 64 to 8160")
        if buf_size < 128 or buf_size > 16256 or buf_size % 128:
            raise ValueError(f"buf_size={buf_size}: a multiple of 128 from 128 to 16256")
        self._ring, self._buffers, self._doorbell = ring.view, buffers.view, doorbell
        self.index = index
        self.ring_len = ring_len
        self.buf_size = buf_size
        self.mapped = doorbell is not None


cdef class TxRing(Ring):
    """One transmit ring.  `doorbell` is the mapped QTX_TAIL word, None when doorbells trap."""

    def __init__(self, int index, object ring, object buffers, int ring_len, int buf_size,
                 object doorbell=None):
        super().__init__(index, ring, buffers, ring_len, buf_size, doorbell)
        cdef TxState *state = &self.state
        memset(state, 0, sizeof(TxState))
        self._asked = memoryview(bytearray(2 * ring_len))
        state.ring_len = ring_len
        state.buf_size = buf_size
        state.stride = buffer_stride(buf_size)
        state.buffers_iova = buffers.iova
        state.desc = <uint64_t *>address_of(self._ring, 16 * ring_len)
        state.buffers = address_of(self._buffers, <uint64_t>ring_len * state.stride)
        state.asked = <uint16_t *>address_of(self._asked, 2 * ring_len)
        state.doorbell = &state.shadow
        if self.mapped:
            state.doorbell = <uint32_t *>address_of(doorbell, 4)
        self.reset()

    def reset(self) -> None:
        """Start over at slot 0; the device must not be using the ring."""
        cdef TxState *state = &self.state
        memset(state.desc, 0, 16 * state.ring_len)
        state.next = state.clean = state.since_rs = state.asked_head = state.asked_tail = 0
        store_release_u32(state.doorbell, 0)

    @property
    def tail(self) -> int:
        return self.state.next

    @property
    def free(self) -> int:
        """Descriptors that can be written now."""
        tx_reclaim(&self.state)
        return tx_free(&self.state)

    @property
    def idle(self) -> bool:
        """True when the device has reported every frame for which a report was asked."""
        tx_reclaim(&self.state)
        return self.state.asked_head == self.state.asked_tail

    def slots_for(self, uint64_t length, bint context) -> int:
        """How many descriptors a frame of `length` bytes takes."""
        cdef uint64_t size = self.state.buf_size
        return (length + size - 1) // size + (1 if context else 0)

    def put(self, const uint8_t[::1] data not None, uint64_t fields, context=None,
            bint report=False) -> bool:
        """Write one frame; False when the ring has no room.  The doorbell is rung separately.

        `fields` is qword 1 of the data descriptors without EOP, RS and size, `context` both
        qwords of a context descriptor in front of them.  `report` asks for a completion.
        """
        cdef TxState *state = &self.state
        cdef uint64_t length = data.shape[0], at = 0, context0 = 0, context1 = 0
        cdef uint32_t piece
        if length == 0:
            raise ValueError("a frame has at least one byte")
        cdef uint32_t needed = self.slots_for(length, context is not None)
        if needed >= state.ring_len:
            raise ValueError(f"a frame of {length} bytes needs {needed} descriptors of"
                             f" {state.ring_len}")
        if context is not None:
            context0, context1 = context
        tx_reclaim(state)
        if tx_free(state) < needed:
            return False
        if context is not None:
            state.desc[2 * state.next] = context0
            state.desc[2 * state.next + 1] = context1 | TX_DTYPE_CONTEXT
            state.next = ring_next(state.next, state.ring_len)
            state.since_rs += 1
        while at < length:
            piece = <uint32_t>min(length - at, <uint64_t>state.buf_size)
            memcpy(tx_buffer(state), &data[at], piece)
            at += piece
            if at == length:
                fields |= TX_EOP
                if report:
                    state.since_rs = RS_EVERY
            tx_write(state, fields, piece)
        return True

    def put_raw(self, uint64_t qword0, uint64_t qword1) -> None:
        """Write any two qwords as the next descriptor: for tests of malformed input."""
        cdef TxState *state = &self.state
        if tx_free(state) == 0:
            raise StateError("the Tx ring is full")
        state.desc[2 * state.next] = qword0
        state.desc[2 * state.next + 1] = qword1
        state.next = ring_next(state.next, state.ring_len)

    def ring_doorbell(self) -> None:
        tx_doorbell(&self.state)


cdef void rx_rearm(RxState *ring, uint32_t at_least) noexcept nogil:
    """Give consumed buffers back to the device once there are `at_least` of them."""
    cdef uint32_t slot = ring.tail
    cdef uint32_t count = ring.ring_len - 1 - rx_posted(ring)
    if count < at_least or count == 0:
        return
    while count > 0:
        ring.desc[4 * slot] = ring.buffers_iova + <uint64_t>slot * ring.stride
        ring.desc[4 * slot + 1] = 0
        slot = ring_next(slot, ring.ring_len)
        count -= 1
    ring.tail = slot
    # Release: the device must see the descriptors before the tail.
    store_release_u32(ring.doorbell, slot)


cdef class RxRing(Ring):
    """One receive ring.  `doorbell` is the mapped QRX_TAIL word, None when doorbells trap.

    `rxdid` is the format of its writeback, see Rxdid; ValueError when it is none of them.
    """

    def __init__(self, int index, object ring, object buffers, int ring_len, int buf_size,
                 object doorbell=None, int rxdid=Rxdid.LEGACY):
        super().__init__(index, ring, buffers, ring_len, buf_size, doorbell)
        cdef RxState *state = &self.state
        memset(state, 0, sizeof(RxState))
        self.rxdid = Rxdid(rxdid)
        state.flexible = rxdid != Rxdid.LEGACY
        state.ring_len = ring_len
        state.buf_size = buf_size
        state.stride = buffer_stride(buf_size)
        state.buffers_iova = buffers.iova
        state.desc = <uint64_t *>address_of(self._ring, 32 * ring_len)
        state.buffers = address_of(self._buffers, <uint64_t>ring_len * state.stride)
        state.doorbell = &state.shadow
        if self.mapped:
            state.doorbell = <uint32_t *>address_of(doorbell, 4)
        self.reset()

    def reset(self) -> None:
        """Start over at slot 0 with every buffer posted; the device must not use the ring."""
        cdef RxState *state = &self.state
        memset(state.desc, 0, 32 * state.ring_len)
        state.next = state.tail = 0
        rx_rearm(state, 0)

    @property
    def tail(self) -> int:
        return self.state.tail

    @property
    def posted(self) -> int:
        """Buffers that the device may fill or that hold frames not taken yet."""
        return rx_posted(&self.state)

    def take(self):
        """The oldest received frame, or None.

        A tuple (data, qword0 ... qword3) with the qwords of the frame's last descriptor.
        """
        cdef RxState *state = &self.state
        cdef uint32_t count = rx_frame(state), slot = state.next, _i
        cdef uint64_t last = 0
        if count == 0:
            return None
        data = bytearray()
        for _i in range(count):
            last = slot
            data += (<char *>rx_buffer(state, slot))[:rx_length(state, slot)]
            slot = ring_next(slot, state.ring_len)
        state.next = slot
        result = (bytes(data), *[state.desc[4 * last + k] for k in range(4)])
        rx_rearm(state, REARM_EVERY)
        return result

    def rearm(self) -> None:
        """Give every consumed buffer back to the device at once."""
        rx_rearm(&self.state, 0)

    def hold(self, int slots) -> None:
        """Keep all but `slots` buffers from the device, after reset(): for tests of full rings."""
        cdef RxState *state = &self.state
        if state.next != 0 or not 0 <= slots < <int>state.ring_len:
            raise StateError("hold() comes straight after reset()")
        state.tail = slots
        store_release_u32(state.doorbell, slots)
