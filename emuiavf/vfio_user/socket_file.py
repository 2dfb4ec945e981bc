"""A UNIX socket's place in the file system, held by a lock file beside it.

The lock decides whether a socket file is stale or in use, not a probing connect: that would be a
client to the one who listens.  `PATH.lock` holds the pid of its owner.
"""

import fcntl
import os
import socket
import stat
from pathlib import Path

from emuiavf.errors import ConfigError

# Connections that wait while another client is served: a new VMM may come before the old one's
# end was noticed.
_BACKLOG = 4


class SocketFile:
    """The path and its lock, from construction until `release`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take the lock; ConfigError names a live holder, or whatever else is in the way."""
        self.path = Path(path)
        self.lock_path = Path(f"{self.path}.lock")
        self._bound: tuple[int, int] | None = None
        try:
            self._lock_fd = self._take_lock()
        except OSError as fault:
            raise ConfigError(f"{self.lock_path}: {fault.strerror}") from None

    def listen(self, mode: int | None = None) -> socket.socket:
        """Replace a stale socket file and listen there; ConfigError when that cannot be done.

        `mode`: the most that the file's permissions are, from its first moment on.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._remove_stale()
            if mode is not None:
                # Linux gives the file that bind makes the mode of the socket.
                os.fchmod(listener.fileno(), mode)
            listener.bind(str(self.path))
            self._bound = _identity(os.stat(self.path))
            listener.listen(_BACKLOG)
        except OSError as fault:
            listener.close()
            raise ConfigError(f"{self.path}: {fault.strerror or fault}") from None
        except ConfigError:
            listener.close()
            raise
        return listener

    def release(self) -> None:
        """Remove the socket file, unless somebody replaced it, and the lock; idempotent."""
        if self._lock_fd < 0:
            return
        if self._bound is not None and self._bound == _identity_at(self.path):
            self.path.unlink(missing_ok=True)
        # Before the unlock: whoever waits for this lock file then finds that it is no longer it.
        self.lock_path.unlink(missing_ok=True)
        os.close(self._lock_fd)
        self._lock_fd = -1

    def _take_lock(self) -> int:
        while True:
            fd = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _identity(os.fstat(fd)) != _identity_at(self.lock_path):
                    # Its owner removed it between our open and our lock.
                    os.close(fd)
                    continue
                os.ftruncate(fd, 0)
                os.write(fd, b"%d\n" % os.getpid())
            except BlockingIOError:
                holder = _holder(fd)
                os.close(fd)
                raise ConfigError(f"{self.path}: held by {holder}") from None
            except OSError:
                os.close(fd)
                raise
            return fd

    def _remove_stale(self) -> None:
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            self.release()
            raise ConfigError(f"{self.path}: exists and is not a socket")
        self.path.unlink(missing_ok=True)


def remove_dead(path: Path) -> None:
    """Remove a socket file whose owner has died, and its lock; anything else stays."""
    try:
        file = SocketFile(path)
    except ConfigError:
        return
    try:
        file.listen().close()
    except ConfigError:
        pass
    finally:
        file.release()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _identity_at(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _holder(fd: int) -> str:
    """The process that wrote itself into a lock file, by name and pid."""
    text = os.pread(fd, 32, 0).strip()
    if not text.isdigit():
        return "another process"
    try:
        name = Path(f"/proc/{int(text)}/comm").read_text(errors="replace").strip()
    except OSError:
        name = "process"
    return f"{name}, pid {int(text)}"
