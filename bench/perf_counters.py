"""Hardware counters of this thread, where the machine gives them to programs.

Many virtual machines have none, and containers often forbid them: `Counters.open` then says why.
perf_event_open(2).
"""

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# x86-64 and 64-bit Arm; other machines have no number here and get no counters.
SYSCALLS = {"x86_64": 298, "aarch64": 241}
HARDWARE, CACHE = 0, 3
# PERF_COUNT_HW_*; for the caches: which | operation read << 8 | result << 16.
EVENTS = {
    "instructions": (HARDWARE, 1),
    "cycles": (HARDWARE, 0),
    "cache_misses": (HARDWARE, 3),
    "l1d_misses": (CACHE, 0 | 0 << 8 | 1 << 16),
    "llc_misses": (CACHE, 2 | 0 << 8 | 1 << 16),
}
_ATTR_SIZE = 128
_DISABLED, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 0, 1 << 5, 1 << 6
_ENABLE, _DISABLE, _RESET = 0x2400, 0x2401, 0x2403


class Counters:
    """Counters that stand still but within `counting`."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self._fds = dict(fds)

    @classmethod
    def open(cls, events: Mapping[str, tuple[int, int]] = EVENTS) -> "Counters":
        """Those of `events` that there are; OSError when there is none."""
        fds: dict[str, int] = {}
        refused: OSError | None = None
        for name, (kind, config) in events.items():
            try:
                fds[name] = _open(kind, config)
            except OSError as error:
                refused = error
        if not fds:
            raise refused or OSError("no event is asked for")
        return cls(fds)

    @contextmanager
    def counting(self) -> Iterator[None]:
        for fd in self._fds.values():
            fcntl.ioctl(fd, _ENABLE)
        try:
            yield
        finally:
            for fd in self._fds.values():
                fcntl.ioctl(fd, _DISABLE)

    def read(self) -> dict[str, int]:
        """What was counted since the last call."""
        found = {}
        for name, fd in self._fds.items():
            found[name] = int.from_bytes(os.read(fd, 8), "little")
            fcntl.ioctl(fd, _RESET)
        return found

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])


def _open(kind: int, config: int) -> int:
    """The fd of one counter of the calling thread, user space alone."""
    number = SYSCALLS.get(os.uname().machine)
    if number is None:
        raise OSError(f"no system call number for {os.uname().machine}")
    flags = _DISABLED | _EXCLUDE_KERNEL | _EXCLUDE_HV
    # type, size, config, sample_period, sample_type, read_format, flags; the rest is 0.
    attr = struct.pack("<IIQQQQQ", kind, _ATTR_SIZE, config, 0, 0, 0, flags)
    buffer = ctypes.create_string_buffer(attr, _ATTR_SIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    fd = libc.syscall(
        ctypes.c_long(number),
        buffer,
        ctypes.c_int(0),
        ctypes.c_int(-1),
        ctypes.c_int(-1),
        ctypes.c_ulong(8),  # PERF_FLAG_FD_CLOEXEC
    )
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(fd)
