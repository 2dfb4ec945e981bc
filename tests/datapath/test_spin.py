"""How long a worker spins before it sleeps: long between requests and answers, while nobody else
wants its CPU, and short else."""

import pytest

from emuiavf.datapath import _nap_probe as probe
from emuiavf.datapath._nap_probe import Spin

MS = 1_000_000
PING = 98
SHORT, LONG = probe.SPIN_SHORT_NS, probe.SPIN_LONG_NS


class Spinner:
    """A worker that gets a share of its CPU while it is awake."""

    def __init__(self, share: float = 1.0) -> None:
        self.spin = Spin()
        self.share = share
        self.now = self.cpu = 1
        self.readings = 0

    @property
    def lasts(self) -> int:
        return self.spin.lasts(self.now)

    def wait(self, ns: int) -> None:
        """Turns without work for so long, then sleep if the next frame has not come."""
        left = ns
        while left and ns - left < self.lasts:
            if self.spin.watch(self.now):
                self.readings += 1
                self.spin.clock(self.now, self.cpu)
            turn = min(left, 2000)
            self.now += turn
            self.cpu += int(turn * self.share)
            left -= turn
        if left:
            self.spin.end()
            self.now += left

    def frame(self, after_ns: int, length: int = PING) -> None:
        self.wait(after_ns)
        self.spin.worked(after_ns, length)

    def ping(self, count: int, every_ns: int = 2 * MS, answer_ns: int = 70_000) -> None:
        for _ in range(count):
            self.frame(every_ns - answer_ns)
            self.frame(answer_ns)


def test_at_first_it_spins_for_a_short_time() -> None:
    assert Spinner().lasts == SHORT


@pytest.mark.parametrize("every_ms", [0.2, 1, 2, 3.9])
def test_between_requests_and_answers_it_spins_until_the_next(every_ms: float) -> None:
    spinner = Spinner()
    spinner.ping(probe.SPIN_QUICK // 2, int(every_ms * MS))
    assert spinner.lasts == LONG
    spinner.ping(100, int(every_ms * MS))
    assert spinner.lasts == LONG


@pytest.mark.parametrize("every_ms", [5, 10, 200, 1000])
def test_between_rare_requests_it_sleeps(every_ms: int) -> None:
    spinner = Spinner()
    for _ in range(100):
        spinner.ping(1, every_ms * MS)
        assert spinner.lasts == SHORT


def test_one_late_request_changes_nothing() -> None:
    spinner = Spinner()
    spinner.ping(20)
    spinner.frame(3 * LONG)
    assert spinner.lasts == LONG
    spinner.frame(3 * LONG)
    assert spinner.lasts == SHORT


@pytest.mark.parametrize("most", [probe.SPIN_FRAME_LEN, probe.SPIN_FRAME_LEN + 1])
def test_long_frames_are_not_waited_for(most: int) -> None:
    spinner = Spinner()
    spinner.ping(20)
    spinner.frame(100_000, most)
    assert spinner.lasts == (LONG if most <= probe.SPIN_FRAME_LEN else SHORT)


def test_acknowledgements_between_long_frames_are_no_answers() -> None:
    spinner = Spinner()
    for _ in range(100):
        for _ in range(probe.SPIN_QUICK - 1):
            spinner.frame(100_000, 66)
            assert spinner.lasts == SHORT
        spinner.frame(100_000, 1514)


def test_frames_that_the_shortest_spin_bridges_say_nothing() -> None:
    spinner = Spinner()
    for _ in range(100):
        spinner.frame(SHORT)
    assert spinner.lasts == SHORT
    spinner.ping(20)
    for _ in range(100):
        spinner.frame(SHORT, 1514)
    assert spinner.lasts == LONG


@pytest.mark.parametrize("share", [0.6, 0.9, 1.0])
def test_it_may_lose_its_cpu_now_and_then(share: float) -> None:
    spinner = Spinner(share)
    spinner.ping(100)
    assert spinner.lasts == LONG


@pytest.mark.parametrize("share", [0.1, 0.45])
def test_where_others_want_its_cpu_it_hardly_spins(share: float) -> None:
    spinner = Spinner(share)
    spinner.ping(20)
    cpu, began = spinner.cpu, spinner.now
    spinner.ping(1000)
    watched = probe.SPIN_WATCHED_NS + LONG
    short = 2 * SHORT / (2 * MS)
    allowed = watched / (watched + probe.SPIN_CROWDED_NS) + short
    assert (spinner.cpu - cpu) / (spinner.now - began) < share * allowed * 1.1


def test_when_the_others_have_gone_it_spins_again() -> None:
    spinner = Spinner(0.4)
    spinner.ping(20)
    spinner.share = 1.0
    spinner.ping(probe.SPIN_CROWDED_NS // (2 * MS) + 1)
    assert spinner.lasts == LONG
    spinner.ping(100)
    assert spinner.lasts == LONG


def test_a_sleep_is_not_taken_for_the_work_of_others() -> None:
    spinner = Spinner()
    for _ in range(20):
        spinner.ping(20)
        spinner.wait(50 * MS)
        spinner.ping(1)
        assert spinner.lasts == LONG


def test_the_clock_of_the_thread_is_read_seldom() -> None:
    spinner = Spinner()
    spinner.ping(1000)
    assert 0 < spinner.readings <= 2000 * MS // probe.SPIN_WATCHED_NS + 2
