"""Every reset of the function as one state machine: who asks, and in which order it is done.

Knows no register and no queue: the device carries out the steps.  Reference:
iavf-adminq-reset.md, 3.5 (what a reset does) and 3.6 (the notice before it).
"""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

# How long a driver gets to read RESET_IMPENDING before the ARQ that carries it is cleared.
NOTICE_S = 0.020


class Cause(Enum):
    RESET_VF = "RESET_VF"
    REQUEST_QUEUES = "REQUEST_QUEUES"
    HOST = "host"
    FLR = "function-level reset"
    CLIENT = "DEVICE_RESET"
    DISCONNECT = "client gone"

    @property
    def is_function_level(self) -> bool:
        """Whether the VF is as new afterwards; a VF reset keeps version, MAC and queue pairs."""
        return self in (Cause.FLR, Cause.CLIENT, Cause.DISCONNECT)


class ResetState(Enum):
    ACTIVE = "active"
    IMPENDING = "impending"
    IN_PROGRESS = "in progress"


class Steps(Protocol):
    """The parts of a reset, called in this order."""

    def stop_vf(self, cause: Cause) -> None:
        """Drop what the driver had set up.  When it returns no queue runs, no worker holds guest
        memory, and tails, ITR and DYN_CTLN are zero."""

    def clear_registers(self) -> None:
        """RSTAT reads 0 (in progress), all other registers their reset value."""

    def activate(self) -> None:
        """RSTAT reads 2: the driver may begin again."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class ResetMachine:
    """Serialises resets: at most one waits, and none is ever lost.

    ACTIVE -> IMPENDING -> IN_PROGRESS -> ACTIVE, the notice being optional.  Prohibited: a reset
    that begins inside another's steps (it would see a half-cleared device).
    """

    def __init__(
        self, steps: Steps, call_later: Callable[[float, Callable[[], None]], Timer]
    ) -> None:
        self.state = ResetState.ACTIVE
        self._steps = steps
        self._call_later = call_later
        self._timer: Timer | None = None
        self._announced = Cause.HOST

    def perform(self, cause: Cause) -> None:
        """Reset now; one that was impending is done with it."""
        assert self.state is not ResetState.IN_PROGRESS
        self.close()
        self.state = ResetState.IN_PROGRESS
        self._steps.stop_vf(cause)
        self._steps.clear_registers()
        self._steps.activate()
        self.state = ResetState.ACTIVE

    def announce(self, cause: Cause) -> None:
        """Reset when the driver has read its RESET_IMPENDING, or NOTICE_S from now."""
        assert self.state is not ResetState.IN_PROGRESS
        if self.state is ResetState.ACTIVE:
            self.state = ResetState.IMPENDING
            self._announced = cause
            self._timer = self._call_later(NOTICE_S, self.notice_read)

    def notice_read(self) -> None:
        """The driver has read the notice, or its time is up."""
        if self.state is ResetState.IMPENDING:
            self.perform(self._announced)

    def close(self) -> None:
        """Drop a reset that is impending."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
