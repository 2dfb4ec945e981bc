"""Log lines that a guest can cause: a few per device and time, then only the number of others."""

import logging
import time
from collections.abc import Callable

LINES = 10
WINDOW_S = 10.0


class GuestLog:
    """A logger with a bound, for one device."""

    def __init__(
        self, logger: logging.Logger, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._name = name
        self._clock = clock
        self._since = clock()
        self._lines = 0

    def warning(self, text: str) -> None:
        """Log `text` behind the device's name, unless there were many lines lately."""
        now = self._clock()
        if now - self._since >= WINDOW_S:
            if self._lines > LINES:
                more = self._lines - LINES
                self._logger.warning("%s: %d more lines like these left out", self._name, more)
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES:
            self._logger.warning("%s: %s", self._name, text)
