"""Registers that the guest maps: a worker sees that they were written, control takes the news.

Knows words and offsets, no register.  The guest may write any word at any time: each look loads it
once, and what was loaded is all that is used.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from emuiavf._atomic cimport (
    load_acquire_u32, load_relaxed_u32, load_seq_u32, store_relaxed_u32, store_release_u32,
    store_seq_u32,
)


cdef extern from "wait.h" nogil:
    void event_signal(int fd) noexcept


cdef void watch_look(Watch *watch) noexcept nogil:
    cdef uint32_t i, at
    if load_relaxed_u32(&watch.told):
        return
    for i in range(watch.num_watched):
        at = watch.places[i]
        if load_relaxed_u32(&watch.words[at]) != load_relaxed_u32(&watch.known[at]):
            store_seq_u32(&watch.told, 1)
            event_signal(watch.fd)
            return


cdef class RegisterWatch:
    """`memory` is shared with the guest; `watched` and `others` are offsets of 32-bit words in it.

    A worker signals `fd` when a watched word is not as control last knew it, and not again before
    `news()`.  Methods are control's.  All words are 0 to begin with.
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.watch, 0, sizeof(Watch))

    def __init__(self, memory, watched, others, int fd):
        cdef Py_buffer view
        cdef uint32_t i
        offsets = [*watched, *others]
        PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
        self.watch.words = <uint32_t *>view.buf
        size = view.len
        # The memoryview keeps the buffer; the raw pointer lives as long as it does.
        self._memory = memoryview(memory)
        PyBuffer_Release(&view)
        if any(offset % 4 or not 0 <= offset < size for offset in offsets):
            raise ValueError(f"offsets of words in {size} bytes wanted")
        self._offsets = frozenset(offsets)
        self.watch.known = <uint32_t *>calloc(size // 4, 4)
        self.watch.places = <uint32_t *>calloc(max(1, len(offsets)), 4)
        if self.watch.known == NULL or self.watch.places == NULL:
            raise MemoryError
        for i, offset in enumerate(offsets):
            self.watch.places[i] = offset // 4
        self.watch.num_places = len(offsets)
        self.watch.num_watched = len(watched)
        self.watch.fd = fd

    def __dealloc__(self):
        free(self.watch.known)
        free(self.watch.places)

    def news(self) -> list[tuple[int, int]]:
        """(offset, value) of every word that the guest has written, known from now on.

        In the order of the constructor: what stands first was loaded first, so that a guest's
        earlier stores to the later ones are among them.
        """
        cdef uint32_t i, at, value
        found = []
        # First, so that what comes behind the loads is told anew.
        store_seq_u32(&self.watch.told, 0)
        for i in range(self.watch.num_places):
            at = self.watch.places[i]
            value = load_acquire_u32(&self.watch.words[at])
            if value != self.watch.known[at]:
                store_relaxed_u32(&self.watch.known[at], value)
                found.append((4 * at, value))
        return found

    cdef uint32_t _check(self, uint32_t offset) except? 0xFFFFFFFF:
        if offset not in self._offsets:
            raise ValueError(f"no word of ours at {offset:#x}")
        return offset // 4

    def show(self, uint32_t offset, uint32_t value) -> None:
        """The device's own write.  What the guest has written meanwhile stays, to be news."""
        cdef uint32_t at = self._check(offset)
        if (value != self.watch.known[at]
                and load_seq_u32(&self.watch.words[at]) == self.watch.known[at]):
            store_relaxed_u32(&self.watch.known[at], value)
            store_release_u32(&self.watch.words[at], value)

    def force(self, uint32_t offset, uint32_t value) -> None:
        """The device's own write, whatever stands there."""
        cdef uint32_t at = self._check(offset)
        store_relaxed_u32(&self.watch.known[at], value)
        store_release_u32(&self.watch.words[at], value)
