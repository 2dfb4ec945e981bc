"""What a turn is made with, and makes: see _turn.pyx."""

from libc.stdint cimport uint64_t
from emuiavf.datapath._frame cimport Burst
from emuiavf.datapath._plan cimport Plan


cdef enum:
    TURN_MOVED = 1  # some frame has moved
    TURN_HELD = 2   # some frame is held


cdef struct Turn:
    Burst *burst
    uint64_t hold_ns  # how long a 1:1 connection waits for room before it drops
    uint64_t due_ns   # when the first source that holds frames back may send; FOREVER: none


# Serve every source once; returns what has become of frames, TURN_... together.
cdef int turn_serve(Turn *turn, Plan *plan, uint64_t now) noexcept nogil
# Call every poller; returns when the first wants to be called again.
cdef uint64_t turn_poll(Plan *plan, uint64_t now) noexcept nogil
