"""What a worker serves: see _plan.pyx."""

from libc.stdint cimport uint32_t
from emuiavf.datapath._deliver cimport Route
from emuiavf.datapath._frame cimport Poller


cdef extern from "wait.h" nogil:
    ctypedef struct PollFd "struct pollfd":
        int fd
        short events
        short revents


cdef enum:
    SLEEP_FDS = 64     # a sleep waits for so many; a worker with more also looks by itself


cdef struct Plan:
    Route *routes
    Poller **pollers
    PollFd *fds        # [0] is the wake-up; its sources' fds follow
    uint32_t num_routes
    uint32_t num_pollers
    uint32_t num_fds
    uint32_t polled    # some source can only be found by looking
    uint32_t idle_ppm  # what looking may cost, of a core
    uint32_t promises  # some source is promised a share


# `wake_fd` ends the sleep of the worker, `napping` is set while it sleeps or is about to.
cdef Plan *plan_build(list routes, list endpoints, double devices, int wake_fd,
                      uint32_t *napping) except NULL
cdef void plan_free(Plan *plan) noexcept
