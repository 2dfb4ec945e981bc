"""Descriptors that a client calls eventfds: believed only when the kernel says so."""

import os
from collections.abc import Sequence

from emuiavf.errors import PeerError

_EVENTFD_LINK = "anon_inode:[eventfd]"


def adopt_eventfds(fds: Sequence[int]) -> None:
    """Make passed eventfds safe to write: never blocking, and really eventfds.

    PeerError when one of them is anything else; the fds stay the caller's.  A worker that wrote
    into a pipe, a file or a blocking eventfd could be stopped by the client for ever.
    """
    for fd in fds:
        link = os.readlink(f"/proc/self/fd/{fd}")
        if link != _EVENTFD_LINK:
            raise PeerError(f"descriptor is {link!r}, not an eventfd")
        os.set_blocking(fd, False)
