"""The plan of a worker: its sources with the way of their frames, and what wakes it.

Built as a whole and never changed; see _worker.pyx for how long it lives.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from emuiavf.datapath._deliver cimport Route
from emuiavf.datapath._endpoint cimport Endpoint, SourceRef
from emuiavf.datapath._frame cimport Poller
from emuiavf.datapath._nap cimport NAP_DEVICE_PPM
from emuiavf.datapath._switch cimport GuardTable, Learned, Switch, switch_build, switch_free


cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN


cdef uint64_t SECOND_NS = 1_000_000_000


cdef class SwitchTable:
    """Owner of one built switch; freed when the last plan that uses it is gone.

    `learned`: the Learned of its ports, or None.  `storm`: frames per second that each of its
    sources may flood, 0 for no limit.
    """
    cdef Switch *table
    cdef object _learned

    def __cinit__(self, list members, Learned learned=None, uint64_t storm=0):
        self._learned = learned
        self.table = switch_build(members, learned, SECOND_NS // storm if storm else 0)

    def __dealloc__(self):
        switch_free(self.table)


cdef void plan_free(Plan *plan) noexcept:
    if plan != NULL:
        free(plan.routes)
        free(plan.pollers)
        free(plan.fds)
        free(plan)


cdef Plan *plan_build(list routes, list endpoints, double devices, int wake_fd,
                      uint32_t *napping) except NULL:
    """Arguments are as those of Worker.publish."""
    cdef Plan *plan = <Plan *>calloc(1, sizeof(Plan))
    cdef SourceRef ref
    cdef Endpoint endpoint
    cdef Route *route
    if plan == NULL:
        raise MemoryError
    plan.routes = <Route *>calloc(max(1, len(routes)), sizeof(Route))
    plan.pollers = <Poller **>calloc(max(1, len(endpoints)), sizeof(Poller *))
    plan.fds = <PollFd *>calloc(1 + len(routes), sizeof(PollFd))
    if plan.routes == NULL or plan.pollers == NULL or plan.fds == NULL:
        plan_free(plan)
        raise MemoryError
    plan.fds[0].fd = wake_fd
    plan.fds[0].events = POLLIN
    plan.num_fds = 1
    plan.idle_ppm = <uint32_t>(devices * NAP_DEVICE_PPM)
    try:
        for ref, destination, guard, promised in routes:
            route = &plan.routes[plan.num_routes]
            plan.num_routes += 1
            route.source = ref.source
            if guard is not None:
                route.guard = &(<GuardTable?>guard).guard
            if isinstance(destination, SwitchTable):
                route.many = (<SwitchTable>destination).table
            elif destination is not None:
                route.one = (<Endpoint?>destination).sink
            if promised:
                route.promise = (<Endpoint?>ref.owner).promise
                plan.promises = 1
            if ref.source.fd >= 0:
                plan.fds[plan.num_fds].fd = ref.source.fd
                plan.fds[plan.num_fds].events = POLLIN
                plan.num_fds += 1
            if isinstance(ref.owner, Endpoint) and (<Endpoint>ref.owner).polled:
                plan.polled = 1
        if plan.num_fds > SLEEP_FDS:
            plan.polled = 1
        for endpoint in endpoints:
            if endpoint.poller != NULL:
                plan.pollers[plan.num_pollers] = endpoint.poller
                plan.num_pollers += 1
                endpoint.poller.wake_fd = wake_fd
                endpoint.poller.napping = napping
                if endpoint.polled:
                    plan.polled = 1
    except BaseException:
        plan_free(plan)
        raise
    return plan
