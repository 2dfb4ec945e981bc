"""The exceptions of emuiavf: who broke which rule, and what may be told to whom.

Three borders catch them by type and nothing else is caught: the vfio-user session (an errno in
the reply), virtchnl dispatch (a status in the reply) and the command line (one line of text).
"""

import errno as _errno


class EmuIavfError(Exception):
    """Base of every error that this package raises on purpose."""


class PeerError(EmuIavfError):
    """The client or the guest broke a rule; `errno` is what a vfio-user reply carries (never 0)."""

    def __init__(self, message: str, errno: int = _errno.EINVAL) -> None:
        super().__init__(message)
        self.errno = errno


class MemoryFault(PeerError):
    """Guest memory that is not mapped, not writable, or whose file has vanished (EFAULT)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, _errno.EFAULT)


class ConfigError(EmuIavfError):
    """A wrong option, `--vdev`, `--port` or `--connect` string; the text names the fault."""


class StateError(EmuIavfError):
    """Our own caller used an object in a state that does not allow it."""
