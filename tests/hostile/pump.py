"""How fast a device is served, measured so that a crowded machine does not count.

A batch of frames lies ready, and room for it, before its doorbell is rung: from there on only the
device works.  A batch is much shorter than a scheduler's slice, so the faster ones of many were not
interrupted, and their times say what the device itself needs.
"""

import time

from emuiavf.guest.driver import VfDriver

BATCH = 500
SIZE = 64
BATCH_S = 20.0


class Pump:
    """Batches of numbered frames from a VF to itself; every one must arrive, whole and in order."""

    def __init__(self, path: str) -> None:
        self._driver = VfDriver(path, memory_size=16 << 20)
        self._driver.start(1, ring_len=2048, buf_size=256)
        self._pair = self._driver.queues[0]
        mac = self._driver.mac
        self._head = mac + mac + b"\x88\xb5"
        self._number = 0

    def batch(self) -> float:
        """Seconds from the doorbell to the completion of the last frame."""
        frames = []
        for _ in range(BATCH):
            self._number += 1
            frames.append(self._head + self._number.to_bytes(8, "little") + bytes(SIZE - 22))
        for frame in frames:
            assert self._pair.tx.put(frame, 0, report=frame is frames[-1])
        start = time.perf_counter()
        self._pair.tx.ring_doorbell()
        while not self._pair.tx.idle:
            assert time.perf_counter() < start + BATCH_S, "a batch is not served"
        taken = time.perf_counter() - start
        received = [frame.data for frame in self._pair.receive(BATCH + 1)]
        assert received == frames
        return taken

    def close(self) -> None:
        self._driver.close()
