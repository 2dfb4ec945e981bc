"""How long idle workers sleep: the budget for looks, and what is measured of them, by a clock that
stands still between calls."""

import math
from collections.abc import Callable

import pytest

from emuiavf.datapath import _nap_probe as nap
from emuiavf.datapath._nap_probe import Nap

SECOND_NS = 1_000_000_000


class Sleeper:
    """An idle worker of `devices`; each of its looks takes what `look_ns` says, by its number."""

    def __init__(self, devices: float, look_ns: Callable[[int], int]) -> None:
        self.nap = Nap()
        self.ppm = int(devices * nap.DEVICE_PPM)
        self.look_ns = look_ns
        self.now = self.cpu = self.looks = self.readings = 0
        self.last_work = 0

    def look(self) -> None:
        longest = self.nap.longest(self.ppm)
        sleep = self.nap.next(self.now - self.last_work, self.ppm)
        if sleep < longest:
            self.nap.cut()
        elif self.nap.look():
            self.readings += 1
            self.nap.clock(self.cpu)
        took = self.look_ns(self.looks)
        self.cpu += took
        self.now += sleep + took
        self.looks += 1

    def rest(self, seconds: float) -> float:
        """The share of a core that its looks took in this time."""
        began, cpu = self.now, self.cpu
        while self.now - began < seconds * SECOND_NS:
            self.look()
        return (self.cpu - cpu) / (self.now - began)

    def work(self, cpu_ns: int) -> None:
        self.nap.cut()
        self.cpu += cpu_ns
        self.now += cpu_ns
        self.last_work = self.now


@pytest.mark.parametrize("devices", [0.25, 1, 2, 8, 64])
@pytest.mark.parametrize("look_us", [1, 2, 5, 12, 20, 50])
def test_looks_take_their_budget_and_no_more(look_us: int, devices: float) -> None:
    sleeper = Sleeper(devices, lambda _: look_us * 1000)
    sleeper.rest(2)
    share, allowed = sleeper.rest(1), devices * nap.DEVICE_PPM / 1e6
    shortest, longest = (
        look_us / (look_us + bound / 1000) for bound in (nap.SHORTEST_NS, nap.LONGEST_NS)
    )
    assert share == pytest.approx(min(max(allowed, longest), shortest), rel=0.02)


def test_a_budget_is_less_than_two_percent_of_a_core() -> None:
    assert nap.DEVICE_PPM < 20_000


def test_a_look_that_costs_more_the_longer_the_sleep_keeps_the_budget() -> None:
    sleeper = Sleeper(1, lambda _: 0)
    sleeper.look_ns = lambda _: 8000 + sleeper.nap.longest(sleeper.ppm) // 100
    sleeper.rest(3)
    assert sleeper.rest(1) == pytest.approx(nap.DEVICE_PPM / 1e6, rel=0.02)


def test_sleeps_grow_with_the_time_without_work() -> None:
    idle, ppm = Nap(), nap.DEVICE_PPM
    part = nap.GROWTH_NS // idle.look_ns + 1
    from_here = nap.SHORTEST_NS * part
    for tenths in range(11):
        assert idle.next(from_here * tenths // 10, ppm) == nap.SHORTEST_NS
    for more in range(from_here, part * idle.longest(ppm), 1_000_000):
        assert idle.next(more, ppm) == more // part
    assert idle.next(SECOND_NS, ppm) == idle.longest(ppm) < nap.LONGEST_NS


@pytest.mark.parametrize("look_us", [1, 2, 5, 10, 20, 25])
def test_sleeps_are_the_shortest_for_ten_milliseconds(look_us: int) -> None:
    """Where a look does not cost more than on the machines that were measured."""
    sleeper = Sleeper(1, lambda _: look_us * 1000)
    sleeper.rest(5)
    for ms in range(11):
        assert sleeper.nap.next(ms * 1_000_000, sleeper.ppm) == nap.SHORTEST_NS


@pytest.mark.parametrize("look_us", [2, 5, 10, 25, 60, 100])
def test_a_frame_now_and_then_costs_as_much_whatever_a_look_costs(look_us: int) -> None:
    """Of a core: what looks take from it until sleeps are the longest again."""
    sleeper = Sleeper(1, lambda _: look_us * 1000)
    sleeper.rest(5)
    longest = sleeper.nap.longest(sleeper.ppm)
    sleeper.work(0)
    cpu = sleeper.cpu
    while sleeper.nap.next(sleeper.now - sleeper.last_work, sleeper.ppm) < longest:
        sleeper.look()
    assert sleeper.cpu - cpu < nap.GROWTH_NS * (2 + math.log(longest / nap.SHORTEST_NS))


def test_who_pays_for_nobody_sleeps_longest() -> None:
    assert Nap().longest(0) == nap.LONGEST_NS


def test_work_is_not_taken_for_looks() -> None:
    sleeper = Sleeper(1, lambda _: 5000)
    sleeper.rest(2)
    known = sleeper.nap.look_ns
    for _ in range(50):
        sleeper.rest(0.1)
        sleeper.work(3_000_000)
    assert sleeper.nap.look_ns == known


def test_sleeps_that_are_cut_short_are_not_taken_for_looks() -> None:
    sleeper = Sleeper(1, lambda _: 5000)
    sleeper.rest(2)
    known = sleeper.nap.look_ns
    for _ in range(100):
        for _ in range(nap.LOOKS - 1):
            sleeper.look()
        sleeper.cpu += 100_000
        sleeper.nap.cut()
    assert sleeper.nap.look_ns == known


def test_what_happens_once_changes_little_and_is_forgotten() -> None:
    sleeper = Sleeper(1, lambda _: 10_000)
    sleeper.rest(2)
    before = sleeper.nap.longest(sleeper.ppm)
    sleeper.cpu += 20_000_000
    for _ in range(nap.LOOKS):
        sleeper.look()
    assert before < sleeper.nap.longest(sleeper.ppm) <= before * 1.26
    for _ in range(12 * nap.LOOKS):
        sleeper.look()
    assert sleeper.nap.longest(sleeper.ppm) == pytest.approx(before, rel=0.02)


def test_dear_looks_are_noticed_soon() -> None:
    sleeper = Sleeper(1, lambda number: 5000 if number < 5000 else 25_000)
    while sleeper.looks < 5000:
        sleeper.look()
    sleeper.rest(0.25)
    assert sleeper.rest(1) == pytest.approx(nap.DEVICE_PPM / 1e6, rel=0.05)


def test_a_clock_that_stood_still_is_no_end() -> None:
    """Thread clocks of some machines count by ticks: looks may seem to cost nothing."""
    sleeper = Sleeper(1, lambda number: 0 if number < 20_000 else 10_000)
    while sleeper.looks < 20_000:
        sleeper.look()
    assert sleeper.nap.look_ns > 0
    sleeper.rest(2)
    assert sleeper.rest(1) == pytest.approx(nap.DEVICE_PPM / 1e6, rel=0.05)


def test_the_clock_is_read_seldom() -> None:
    sleeper = Sleeper(1, lambda _: 10_000)
    sleeper.rest(2)
    assert 0 < sleeper.readings <= sleeper.looks / nap.LOOKS + 1
