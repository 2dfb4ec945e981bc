"""Each attack by a process of its own, on a backend that serves another guest at the same time.

The attacker sees the specified error or a stopped queue that a reset cures (asserted in its own
process); the other guest loses nothing, the backend neither ends nor leaks nor fills its log, and
the attacked device works for the next client.
"""

import time
from collections.abc import Iterator

import pytest

from emuiavf.iavf.guestlog import WINDOW_S
from tests.hostile.arena import Arena, make_arena
from tests.hostile.attacker import load
from tests.hostile.backend import wait_for
from tests.hostile.sibling import Sibling

# Lines that clients can cause in one window of the bounded logs: ten of each kind (of the guest, of
# its connection) and how many were left out, and the comings and goings of the test's own guests.
LINES_A_WINDOW = 30
# Attacks that have tests of their own.
ELSEWHERE = {"a_flood_of_refusals", "vanished_under_a_frame_to_a_tap"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    made = make_arena(tmp_path_factory.mktemp("hostile"))
    made.check_victim()
    yield made
    made.backend.stop()


@pytest.mark.parametrize("name", sorted(load().keys() - ELSEWHERE))
def test_attack_hurts_nobody_else(arena: Arena, name: str) -> None:
    backend = arena.backend
    if not backend.is_alive:
        pytest.fail(f"the backend did not survive an earlier attack:\n{backend.log[-4000:]}")
    before, lines, began = backend.census(), backend.lines(), time.monotonic()
    with Sibling(arena.sibling) as sibling:
        moved = sibling.received
        arena.strike(name)
        wait_for("traffic after the attack", lambda: sibling.received > moved)
        seen = sibling.finish()
    assert backend.is_alive
    assert seen.clean, seen
    arena.check_victim()
    wait_for("the return of all it had taken", lambda: (backend.census() - before).is_none)
    # However long it takes on this machine: a window may have begun before, and one is cut short.
    windows = (time.monotonic() - began) // WINDOW_S + 2
    assert backend.lines() - lines < LINES_A_WINDOW * windows
