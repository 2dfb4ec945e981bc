"""The other end of a testpmd's wire: our own driver, which looks at all that comes back."""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from emuiavf.guest.driver import VfDriver
from emuiavf.guest.frames import Frame, TxFrame
from tests.vm.harness import asked

TIMEOUT_S = 30
# Fewer than either side's ring has room for: nothing may be lost.
IN_FLIGHT = 128
# Longer than any frame a VF takes.
BUFFER_SIZE = 9856


class Tester:
    """Promiscuous, one queue pair, jumbo frames whole."""

    __test__ = False  # no class of tests

    def __init__(self, path: Path) -> None:
        self.vf = VfDriver(path)
        asked.is_ours(path)

    def __enter__(self) -> Self:
        self.vf.start(buf_size=BUFFER_SIZE, interrupts=True)
        self.vf.settings.set_promiscuous(unicast=True, multicast=True)
        assert self.vf.channel.wait_link()
        return self

    def __exit__(self, *exc: object) -> None:
        self.vf.close()

    def send(self, frames: Sequence[bytes | TxFrame]) -> None:
        """All of them, at the pace of the ring."""
        end = time.monotonic() + TIMEOUT_S
        sent = 0
        while sent < len(frames):
            sent += self.vf.queues[0].send(frames[sent : sent + IN_FLIGHT])
            assert time.monotonic() < end, f"{sent} of {len(frames)} frames sent"

    def receive(self, count: int) -> list[Frame]:
        """Exactly that many frames."""
        end = time.monotonic() + TIMEOUT_S
        frames: list[Frame] = []
        while len(frames) < count:
            found = self.vf.queues[0].receive()
            frames += found
            if not found:
                left = end - time.monotonic()
                assert left > 0, f"{len(frames)} of {count} frames came"
                self.vf.wait([0], min(left, 0.1))
        return frames

    def exchange(self, frames: Sequence[bytes | TxFrame]) -> list[Frame]:
        """What comes back, one for each, with at most `IN_FLIGHT` under way."""
        back: list[Frame] = []
        for at in range(0, len(frames), IN_FLIGHT):
            part = frames[at : at + IN_FLIGHT]
            self.send(part)
            back += self.receive(len(part))
        return back


def mixed_frames(count: int, largest: int = 1514, seed: int = 1) -> list[bytes]:
    """Frames of all lengths with random contents."""
    source = random.Random(seed)
    head = bytes.fromhex("020000000001 020000000002 88b5")
    sizes = [60, 61, 63, 64, 65, 127, 128, 129, largest]
    sizes += [source.randint(60, largest) for _ in range(count - len(sizes))]
    return [head + source.randbytes(size - len(head)) for size in sizes]
