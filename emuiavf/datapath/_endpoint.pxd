"""What joins the engine: endpoints (a VF, a TAP, ...) and their sources of frames."""

from emuiavf.datapath._bucket cimport Bucket
from emuiavf.datapath._frame cimport FrameSink, Poller, Source


cdef class SourceRef:
    """A Source and the object that owns its memory."""
    cdef Source *source
    cdef readonly object owner
    # Which of its endpoint's sources: decides the worker, so it stays the same.
    cdef readonly int index

    @staticmethod
    cdef SourceRef of(Source *source, object owner, int index)


cdef class Endpoint:
    """Base of everything that frames come from and go to: a VF's rings, a TAP, ...

    A subclass sets `sink`, `poller`, `polled` and `rx_filter` in its constructor or later from
    control, and answers `active_sources`.  The engine reads them on every publish.
    """
    cdef readonly str name
    # The engine's: order of joining, decides the worker.
    cdef public int number
    # NULL: nothing can be sent to it.
    cdef FrameSink *sink
    # NULL: no work beside frames.
    cdef Poller *poller
    # What the host has promised all its sources together; NULL: it promises this one nothing.
    cdef Bucket *promise
    # True: its sources must be polled even while idle (doorbells in memory, no fd, no wake-up).
    cdef readonly bint polled
    # emudev.info.RxFilter, or None: receives everything that has no better place (a port).
    cdef public object rx_filter
    # What the host decided about it: policy.VfPolicy, or None where there is nothing to decide.
    cdef readonly object policy
    cpdef list active_sources(self)
    cpdef object set_policy(self, policy)
