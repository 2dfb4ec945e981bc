"""What one device may ask of the control thread, which it shares with all others.

A real function takes milliseconds for a reset and answers its mailbox one by one; ours is quicker,
and a guest that asks without end would take the CPU that other devices' workers run on.  Ordinary
drivers stay far below: the busiest bring-up is some hundred messages, a driver's reset is one.
"""

import time
from collections.abc import Callable

RESETS_PER_S, RESETS_AT_ONCE = 100.0, 64
COMMANDS_PER_S, COMMANDS_AT_ONCE = 1000.0, 1024

_ROUNDING = 1e-6


class Budget:
    """Tokens that come at `per_s`; up to `at_once` are saved for when they are needed."""

    def __init__(
        self, per_s: float, at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._clock = clock
        self._tokens = float(at_once)
        self._counted = clock()

    @property
    def left(self) -> int:
        """How many can be spent now."""
        now = self._clock()
        self._tokens += (now - self._counted) * self._per_s
        self._tokens = min(self._tokens, self._at_once)
        self._counted = now
        return int(self._tokens + _ROUNDING)

    @property
    def wait_s(self) -> float:
        """Seconds until there is one to spend."""
        return 0.0 if self.left else (1.0 - self._tokens) / self._per_s

    def spend(self, count: int = 1) -> None:
        """At most `left`."""
        self._tokens -= count
