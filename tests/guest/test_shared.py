"""Our driver on a device whose BAR0 is memory as a whole: no register access is a message."""

import os
import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from emuiavf.guest.pair import Pair
from emuiavf.iavf import regs
from emuiavf.vfio_user.client import RegionIndex
from tests.guest.test_e2e import (
    DEADLINE_S,
    Bench,
    ends_clean,
    exchange,
    packet,
    receive,
    stack,
    until,
)

__all__ = ["stack"]


@pytest.fixture
def bench(tmp_path: Path, stack: ExitStack) -> Bench:
    return Bench(tmp_path, stack, options=",doorbell=shared")


def test_traffic_both_ways_is_clean(bench: Bench) -> None:
    pair = Pair(*bench.pair(num_pairs=2), size=200)

    exchange(pair)

    assert ends_clean(pair)


def test_every_register_is_a_word_in_memory(bench: Bench) -> None:
    vf = bench.driver(0)
    assert all(vf.bar.word(register.offset) is not None for register in regs.REGISTERS.values())


@pytest.mark.parametrize("how", ["reset", "function_reset", "request_queues"])
def test_traffic_after_a_reset_is_clean(bench: Bench, how: str) -> None:
    first, second = bench.pair()
    before = Pair(first, second)
    exchange(before)
    assert before.traffic.drain(DEADLINE_S)

    if how == "request_queues":
        first.request_queues(3)
    else:
        getattr(first, how)()

    pair = Pair(first, second)
    exchange(pair)
    assert ends_clean(pair)


def test_queue_interrupt_wakes_the_receiver(bench: Bench) -> None:
    first, second = bench.driver(0), bench.driver(1)
    first.start()
    second.start(interrupts=True)

    first.queues[0].send([bytes(packet(0, 1))])

    assert second.wait([0], DEADLINE_S) == [0]
    assert len(receive(second, 1)) == 1


def test_traffic_without_any_mapping_works_too(bench: Bench) -> None:
    drivers = bench.driver(0, mapped=False), bench.driver(1, mapped=False)
    for driver in drivers:
        driver.start(ring_len=128)
    pair = Pair(*drivers)

    exchange(pair)

    assert ends_clean(pair)


def test_scribbling_over_bar0_harms_nobody_else(tmp_path: Path, stack: ExitStack) -> None:
    """Random words everywhere for a second: the other VFs' frames and every request go on."""
    bench = Bench(tmp_path, stack, count=3, options=",doorbell=shared")
    pair = Pair(*bench.pair())
    hostile = bench.driver(2)
    hostile.start(4)
    area = hostile.client.map_area(RegionIndex.BAR0)
    rng = random.Random(5)
    slowest = 0.0
    end = time.monotonic() + 1.0

    while time.monotonic() < end:
        at = rng.randrange(0, regs.BAR0_SIZE, 4096)
        area[at : at + 4096] = os.urandom(4096)
        for register in (regs.ATQT1, regs.ARQT1, regs.ATQH1, regs.ATQLEN1):
            area[register.offset] = rng.randrange(256)
        pair.run(0.002)
        began = time.monotonic()
        hostile.client.read32(RegionIndex.CONFIG, 0)
        slowest = max(slowest, time.monotonic() - began)

    assert pair.traffic.drain(DEADLINE_S)
    assert all(one.clean and one.received for one in pair.reports(final=True))
    assert slowest < 1.0
    area.close()
    hostile.client.reset()
    hostile.close()
    healed = bench.driver(2)
    healed.start()
    assert until(lambda: healed.link.up)
