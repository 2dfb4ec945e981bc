"""The bystander: our own guest driver with traffic on another device of the attacked backend."""

import threading
from typing import Self

from emuiavf._pattern import flow_header
from emuiavf.guest.driver import VfDriver
from emuiavf.guest.traffic import Flow, Report, Traffic, report

SLICE_S = 0.004
PAUSE_S = 0.004


class Sibling:
    """Frames from a VF to itself, numbered and checksummed, from construction until `close`."""

    def __init__(self, path: str) -> None:
        self._driver = VfDriver(path, memory_size=16 << 20)
        self._driver.start(1, ring_len=256)
        pair = self._driver.queues[0]
        mac = self._driver.mac
        header = flow_header(mac, mac, b"\x0a\0\0\1", b"\x0a\0\0\2", 1000)
        self._traffic = Traffic([Flow(pair.tx, pair.rx, header, 64, 1514)], window=64)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def received(self) -> int:
        return self._traffic.counters(0)["received"]

    def finish(self) -> Report:
        """End the traffic and wait for what is under way; what did not come counts as lost."""
        self._stop.set()
        self._thread.join()
        self._traffic.drain(10.0)
        return report(self._traffic, [0], 1.0)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        # Half of the time: the machine may have no more than two cores.
        while not self._stop.wait(PAUSE_S):
            self._traffic.run(SLICE_S)
