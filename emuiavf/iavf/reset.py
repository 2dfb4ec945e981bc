"""Every reset of the function as one state machine: who asks, and in which order it is done.

Knows no register and no queue: the device carries out the steps.  Reference:
iavf-adminq-reset.md, 3.5 (what a reset does) and 3.6 (the notice before it).
"""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from emuiavf.iavf.budget import RESETS_AT_ONCE, RESETS_PER_S, Budget

# How long a driver gets to read RESET_IMPENDING before the ARQ that carries it is cleared.
NOTICE_S = 0.020
# How long VFGEN_RSTAT reads as in progress then.  DPDK 24.11 waits for the notice in a thread that
# looks every 1 ms (iavf_request_queues), reads it in another, and a third, its watchdog, forgets it
# within 2 ms where RSTAT reads as active: the first must get a CPU before that.
HOLD_S = 0.200


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
    HELD = "held"


class Steps(Protocol):
    """The parts of a reset, called in this order."""

    def show_in_progress(self) -> None:
        """RSTAT reads 0 (in progress) while all else goes on: a notice is to follow."""

    def stop_vf(self, cause: Cause) -> None:
        """Drop what the driver had set up.  When it returns no queue runs and no worker holds guest
        memory."""

    def clear_registers(self) -> None:
        """RSTAT reads 0 (in progress), all other registers their reset value; tails, ITR and
        DYN_CTLN are zero."""

    def activate(self) -> None:
        """RSTAT reads 2: the driver may begin again."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class ResetMachine:
    """Serialises resets: at most one waits, and none is ever lost.

    ACTIVE -> IMPENDING -> IN_PROGRESS -> HELD -> ACTIVE, notice and hold being optional: a reset
    that was announced reads as in progress from its notice until HOLD_S after it was done, and a
    device that is reset more often than `budget` allows is stopped at once, like any, but reads so
    until it may begin again; resets meanwhile find nothing left to stop.  Prohibited: a reset that
    begins inside another's steps (it would see a half-cleared device).
    """

    def __init__(
        self,
        steps: Steps,
        call_later: Callable[[float, Callable[[], None]], Timer],
        budget: Budget | None = None,
    ) -> None:
        self.state = ResetState.ACTIVE
        self._steps = steps
        self._call_later = call_later
        self._budget = budget or Budget(RESETS_PER_S, RESETS_AT_ONCE)
        self._timer: Timer | None = None
        self._announced = Cause.HOST
        self._hold_s = 0.0
        self._performed = Cause.HOST

    def perform(self, cause: Cause, hold_s: float = 0) -> None:
        """Reset now; one that was impending is done with it.  It takes `hold_s` at least."""
        assert self.state is not ResetState.IN_PROGRESS
        held = self.state is ResetState.HELD
        self.close()
        self.state = ResetState.IN_PROGRESS
        if not held or cause.is_function_level > self._performed.is_function_level:
            self._steps.stop_vf(cause)
            self._performed = cause
        self._steps.clear_registers()
        self.state = ResetState.HELD
        if hold_s:
            self._timer = self._call_later(hold_s, self._try_to_activate)
        else:
            self._try_to_activate()

    def announce(self, cause: Cause, hold_s: float = 0) -> None:
        """Reset when the driver has read its RESET_IMPENDING, or NOTICE_S from now.

        The caller sends it after this, so that nobody reads it and then RSTAT as active.  The reset
        takes `hold_s` at least, and no less than HOLD_S.
        """
        assert self.state is not ResetState.IN_PROGRESS
        if self.state is ResetState.ACTIVE:
            self._steps.show_in_progress()
            self.state = ResetState.IMPENDING
            self._announced, self._hold_s = cause, max(hold_s, HOLD_S)
            self._timer = self._call_later(NOTICE_S, self.notice_read)

    def notice_read(self) -> None:
        """The driver has read the notice, or its time is up."""
        if self.state is ResetState.IMPENDING:
            self.perform(self._announced, self._hold_s)

    def _try_to_activate(self) -> None:
        self._timer = None
        wait_s = self._budget.wait_s
        if wait_s:
            self._timer = self._call_later(wait_s, self._try_to_activate)
            return
        self._budget.spend()
        self.state = ResetState.ACTIVE
        self._steps.activate()

    def close(self) -> None:
        """Drop a reset that is impending, and the end of one that is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
