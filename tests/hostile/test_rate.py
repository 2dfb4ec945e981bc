"""A sibling keeps at least 90 % of its rate, and every frame, while its neighbour attacks.

Compared are short windows that alternate: the same attack goes on all the time, in one kind of
window against a backend of its own, in the other against ours.  What the attacker takes of the
machine is thus the same in both; what it takes of our backend is the difference.  Attacks that
also send frames have a worker of their own: what a neighbour sends is served like anyone's.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles

import pytest

from tests.hostile.arena import Arena, make_arena
from tests.hostile.backend import wait_for
from tests.hostile.pump import Pump

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("EMUIAVF_ASAN") == "1", reason="rates are compared in the ordinary build"
    ),
]

KEPT = 0.9
# An open defect, not a loose bound: with two workers on two cores about one run in four misses it.
MISSED = pytest.mark.xfail(reason="resets by a neighbour can take half of a sibling's rate")
WINDOWS, BATCHES, ROUNDS = 8, 15, 5


@pytest.fixture
def arenas(tmp_path: Path, workers: int) -> Iterator[tuple[Arena, Arena]]:
    with ExitStack() as stack:
        made = []
        for name in ("ours", "decoy"):
            (tmp_path / name).mkdir()
            made.append(make_arena(tmp_path / name, workers))
            stack.callback(made[-1].backend.stop)
        yield made[0], made[1]


class Striker:
    """An attack that can be let go on and held."""

    def __init__(self, arena: Arena, name: str) -> None:
        self._arena, self._name = arena, name
        lines = arena.backend.lines()
        self._process = arena.begin(name)
        wait_for("the attacker's coming", lambda: arena.backend.lines() > lines)
        self.hold()

    def hold(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on; one that has ended well begins anew."""
        if self._process.poll() is not None:
            _, said = self._process.communicate()
            assert self._process.returncode == 0, said
            self._process = self._arena.begin(self._name)
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def measure(pump: Pump, here: Striker, there: Striker) -> float:
    """The rate under attack as a share of the rate while the other backend is attacked."""
    with_attack: list[float] = []
    without: list[float] = []
    for _ in range(WINDOWS):
        for striker, times in ((here, with_attack), (there, without)):
            striker.go_on()
            times += [pump.batch() for _ in range(BATCHES)]
            striker.hold()
    # The second decile: batches that met nobody else on their CPU, which on two cores are few.
    return quantiles(without, n=10)[1] / quantiles(with_attack, n=10)[1]


@pytest.mark.parametrize(
    ("attack", "workers"),
    [
        pytest.param("chance", 2, marks=MISSED),
        pytest.param("a_storm_of_resets", 2, marks=MISSED),
        ("a_storm_of_maps", 1),
        ("a_full_queue_of_everything", 1),
    ],
)
def test_rate_of_the_sibling_is_kept(
    arenas: tuple[Arena, Arena], attack: str, workers: int
) -> None:
    ours = arenas[0]
    with ExitStack() as stack:
        pump = stack.enter_context(Pump(ours.sibling))
        here, there = (Striker(arena, attack) for arena in arenas)
        stack.callback(here.end)
        stack.callback(there.end)
        for _ in range(10):
            pump.batch()
        shares = []
        while not shares or (max(shares) < KEPT and len(shares) < ROUNDS):
            shares.append(measure(pump, here, there))
    assert max(shares) >= KEPT, shares
    ours.check_victim()
