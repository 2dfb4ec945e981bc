"""Eventfds of clients, signalled by threads that nobody may stop.

Whether a write waits while the counter is full is a mode of the open file, which a client shares
and may change between any two of our system calls.  So nothing is written: the kernel's AIO adds to
an eventfd when a request completes (include/resfd.h), and that never waits.
"""

cdef extern from "resfd.h" nogil:
    bint resfd_signal(int fd) noexcept
    bint resfd_ready() noexcept
    void resfd_prepare() noexcept


cdef extern from "wait.h" nogil:
    void event_signal_if_room(int fd) noexcept


cdef void event_signal_foreign(int fd) noexcept nogil:
    if not resfd_signal(fd):
        event_signal_if_room(fd)


def signal(int eventfd) -> None:
    """Add 1 to an eventfd; one that is full is pending already."""
    with nogil:
        event_signal_foreign(eventfd)


def uses_aio() -> bool:
    """Whether this thread has AIO: where the kernel has none, or all of it is taken (see
    fs.aio-max-nr), eventfds are polled and then written."""
    return resfd_ready()


resfd_prepare()
