"""Every reset of the function as one state machine: who asks, what it forgets, in which order.

Knows no register and no queue: the device carries out the steps.  Reference:
iavf-adminq-reset.md, 3.5 (what a reset does) and 3.6 (the notice before it).
"""

from collections.abc import Callable
from dataclasses import dataclass
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
        """Whether the VF is as new afterwards; a VF reset keeps what iavf-adminq-reset 3.5 says."""
        return self in (Cause.FLR, Cause.CLIENT, Cause.DISCONNECT)


@dataclass(frozen=True)
class Reset:
    """A reset to be done; `queue_pairs` is the new number, None leaves it as it is."""

    cause: Cause
    queue_pairs: int | None = None


class ResetState(Enum):
    ACTIVE = "active"
    IMPENDING = "impending"
    IN_PROGRESS = "in progress"


class Steps(Protocol):
    """The parts of a reset, called in this order."""

    def stop_data_path(self) -> None:
        """No queue runs, no worker holds guest memory; tails, ITR and DYN_CTLN are zero."""

    def clear_registers(self) -> None:
        """RSTAT reads 0 (in progress), all other registers their reset value."""

    def forget(self, reset: Reset) -> None:
        """Drop what the driver had set up, by the scope of the cause."""

    def activate(self) -> None:
        """RSTAT reads 2: the driver may begin again."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class ResetMachine:
    """Serialises resets: at most one waits, a second request joins it, and none is ever lost.

    ACTIVE -> IMPENDING -> IN_PROGRESS -> ACTIVE, the notice being optional.  Prohibited: a reset
    that begins inside another's steps (it would see a half-cleared device).
    """

    def __init__(
        self, steps: Steps, call_later: Callable[[float, Callable[[], None]], Timer]
    ) -> None:
        self.state = ResetState.ACTIVE
        self.count = 0
        self._steps = steps
        self._call_later = call_later
        self._waiting: Reset | None = None
        self._timer: Timer | None = None

    def perform(self, reset: Reset) -> None:
        """Reset now; a reset that was impending is done with it."""
        assert self.state is not ResetState.IN_PROGRESS
        waiting = self._stop_waiting()
        if not reset.cause.is_function_level and reset.queue_pairs is None and waiting is not None:
            reset = Reset(reset.cause, waiting.queue_pairs)
        self.state = ResetState.IN_PROGRESS
        self._steps.stop_data_path()
        self._steps.clear_registers()
        self._steps.forget(reset)
        self._steps.activate()
        self.state = ResetState.ACTIVE
        self.count += 1

    def announce(self, reset: Reset) -> None:
        """Reset when the driver has read its RESET_IMPENDING, or NOTICE_S from now."""
        assert self.state is not ResetState.IN_PROGRESS
        if self.state is ResetState.ACTIVE:
            self.state = ResetState.IMPENDING
            self._timer = self._call_later(NOTICE_S, self.notice_read)
            self._waiting = reset
        elif reset.queue_pairs is not None:
            self._waiting = reset

    def notice_read(self) -> None:
        """The driver has moved on in the ARQ behind the notice, or its time is up."""
        if self._waiting is not None:
            self.perform(self._waiting)

    def _stop_waiting(self) -> Reset | None:
        waiting, self._waiting = self._waiting, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return waiting
