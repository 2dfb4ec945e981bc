"""Traffic management of testpmd's net_iavf: rates of its queues, and how long their turns are."""

import re
import subprocess
import sys
import time

import pytest

from tests.dpdk.conftest import ROOT, Bench
from tests.dpdk.tester import Tester, mixed_frames
from tests.dpdk.testpmd import Testpmd
from tests.vm.harness.backend import BackendProcess

PORT, CLASS = 1_000_000, 900  # nodes of the hierarchy; queues are called by their numbers
NO_SHAPER = -1
OPTIONS = ["--rxq=2", "--txq=2"]
KEPT_MS = 20  # what was not used in that time may be made up for


def shaper(testpmd: Testpmd, number: int, bits_per_s: int) -> None:
    said = testpmd(f"add port tm node shaper profile 0 {number} 0 0 {bits_per_s // 8} 0 0 0")
    assert "error" not in said, said


def hierarchy(testpmd: Testpmd, *shapers: int) -> None:
    """Port, one class, and a leaf for each queue with its shaper."""
    nodes = [
        f"nonleaf node 0 {PORT} -1 0 1 0 {NO_SHAPER} 1 0 0",
        f"nonleaf node 0 {CLASS} {PORT} 0 1 1 {NO_SHAPER} 1 0 0",
    ]
    nodes += [
        f"leaf node 0 {queue} {CLASS} 0 1 2 {number} 0 0xffffffff 0 0"
        for queue, number in enumerate(shapers)
    ]
    for node in nodes:
        said = testpmd(f"add port tm {node}")
        assert "error" not in said, said


def commit(testpmd: Testpmd) -> bool:
    """Without success all of it is cleared."""
    return "error" not in testpmd("port tm hierarchy commit 0 yes").lower()


def queue_bytes(backend: BackendProcess) -> list[int]:
    device = backend.stats("emu_iavf0")
    return [device[f"tx-{queue}.bytes"] for queue in range(2)]


def sent_until(backend: BackendProcess, least: int) -> tuple[list[int], float]:
    """Bytes of both queues, until each has sent so many; and the most time that it took."""
    began = time.monotonic()
    before = queue_bytes(backend)
    while True:
        sent = [new - old for new, old in zip(queue_bytes(backend), before, strict=True)]
        if min(sent) >= least:
            return sent, time.monotonic() - began
        assert time.monotonic() < began + 60, sent


@pytest.mark.newest
def test_committed_hierarchy_holds_each_queue_to_its_rate(bench: Bench) -> None:
    """That a queue reaches its rate to 5 % is for a clock of its own: tests/test_ring_limits.py."""
    control = str(bench.folder / "control")
    port = ["--port", "null0,type=null", "--connect", "emu_iavf0,null0"]
    backend = bench.serve(*port, "--control", control)
    with bench.testpmd(options=OPTIONS) as testpmd:
        words = ["set", "vf0", "min-rate", "2", "max-rate", "80", "--control", control]
        subprocess.run([sys.executable, "-m", "emuiavf", *words], cwd=ROOT, check=True)
        testpmd("port stop 0")
        # Rates of the class are asked for at each start.
        testpmd("port start 0")
        testpmd("port stop 0")
        shaper(testpmd, 1, 4_000_000)
        shaper(testpmd, 2, 8_000_000)
        hierarchy(testpmd, 1, 2)
        said = testpmd(f"show port tm node cap 0 {CLASS}")
        rates = re.findall(r"cap.shaper_private_rate_(?:min|max) (\d+)", said)
        assert rates == ["250000", "10000000"], said
        assert commit(testpmd)
        testpmd("port start 0")
        testpmd("set fwd txonly")
        testpmd("set txpkts 1000")
        testpmd("start")
        (slow, fast), took_s = sent_until(backend, 500_000)
        testpmd("stop")
    most_bytes = (took_s + KEPT_MS / 1000) * 1_000_000 + 64_000
    assert fast <= most_bytes
    assert slow <= most_bytes / 2
    assert fast / slow == pytest.approx(2, rel=0.05)


def test_refused_rate_then_one_queue_with_a_rate_and_one_without(bench: Bench) -> None:
    """net_iavf names queue 0 without a rate for the queue that has none."""
    # A switch never holds: only rates do.
    port = ["--port", "null0,type=null", "--connect", "emu_iavf0,emu_iavf1,null0"]
    backend = bench.serve(*port, devices=2)
    with (
        Tester(bench.folder / "vf1.sock") as tester,
        bench.testpmd(options=OPTIONS) as testpmd,
    ):
        testpmd("port stop 0")
        shaper(testpmd, 1, 400_000)
        hierarchy(testpmd, 1, 1)
        assert not commit(testpmd)
        assert "peak=400 Kb/s" in backend.said()
        shaper(testpmd, 1, 1_000_000)
        hierarchy(testpmd, 1, NO_SHAPER)
        assert commit(testpmd)
        testpmd("port start 0")
        testpmd("set fwd macswap")
        testpmd("start")
        # One at a time, on the queue that has a rate.
        for frame in (frames := mixed_frames(30, largest=100)):
            assert len(tester.exchange([frame])) == 1
        assert queue_bytes(backend) == [sum(map(len, frames)), 0]
        testpmd("stop")
        testpmd("set fwd txonly")
        testpmd("start")
        (slow, free), took_s = sent_until(backend, 30_000)
        testpmd("stop")
    assert slow <= (took_s + KEPT_MS / 1000) * 125_000 + 64_000
    assert free > 4 * slow


@pytest.mark.newest
@pytest.mark.parametrize(("size", "refused"), [(256, False), (300, True)])
def test_quanta_of_the_devargs_are_set_at_start(bench: Bench, size: int, refused: bool) -> None:
    """net_iavf lets 300 pass, warns of what it gets, and starts."""
    backend = bench.serve("--connect", "emu_iavf0")
    with bench.testpmd(options=OPTIONS, devargs=f"quanta_size={size}") as testpmd:
        assert (b"configure quanta size failed" in testpmd.said) is refused
        testpmd("start tx_first 2")
        testpmd.counters_above("RX-packets", 5000)
    assert (f"quanta_size={size}" in backend.said()) is refused
