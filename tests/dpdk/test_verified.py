"""Numbered frames from our generator through an unmodified testpmd into our verifier.

Two ports of one program: what `gen` sends to the first leaves by the second and is checked there.
Below what this machine can do nothing may be missing, and nothing may ever be damaged.
"""

import time
from collections.abc import Callable

import pytest

from tests.dpdk.conftest import Bench

DEADLINE_S = 60.0
FRAMES = 3_000
# Rings of so many buffers, all queues together, bridge two seconds without a CPU at this rate.
RATE, RING = 2_000, 4096


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def verified(bench: Bench) -> dict[str, int]:
    assert bench.backend is not None
    counters = bench.backend.stats("verify0")
    names = ("frames", "lost", "reordered", "corrupted", "flows")
    return {name: counters[f"verify-0.{name}"] for name in names}


@pytest.mark.parametrize(
    ("size", "queues", "mode"),
    [(64, 1, "io"), (64, 4, "macswap"), (1514, 2, "io"), (1518, 1, "macswap")],
)
def test_every_numbered_frame_comes_through(
    bench: Bench, size: int, queues: int, mode: str
) -> None:
    """More queues than the device has at first are asked for with REQUEST_QUEUES."""
    bench.serve(
        *("--port", f"gen0,type=gen,size={size},flows=16,rate={RATE}"),
        *("--port", "verify0,type=verify"),
        *("--connect", "emu_iavf0,gen0", "--connect", "emu_iavf1,verify0"),
        devices=2,
        options=",queues=1",
    )
    options = [f"--rxq={queues}", f"--txq={queues}", "--rss-udp", f"--rxd={RING // queues}"]
    # After such a pause the generator makes up for 1,024 frames at once.
    options.append(f"--txd={RING // queues // 2}")
    with bench.testpmd(more=[1], options=options) as testpmd:
        testpmd(f"set fwd {mode}")
        testpmd("start")
        # What was in the rings before is through, what found no room there is known.
        until(lambda: verified(bench)["frames"] > FRAMES)
        before = verified(bench)
        until(lambda: verified(bench)["frames"] > before["frames"] + FRAMES)
        after = verified(bench)
        testpmd("stop")
    assert after["flows"] == 16
    assert (after["lost"], after["reordered"], after["corrupted"]) == (before["lost"], 0, 0)
