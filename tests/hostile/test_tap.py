"""Memory that vanishes under the writev of a TAP port: EFAULT there, and no fault of the port."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.arena import Arena, tap_arena
from tests.hostile.backend import wait_for
from tests.hostile.sibling import Sibling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not os.path.exists("/dev/net/tun") or not shutil.which("unshare"),
        reason="needs root, /dev/net/tun and unshare",
    ),
]


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    made = tap_arena(tmp_path)
    yield made
    made.backend.stop()


def test_writev_of_vanished_memory_breaks_the_device_and_nobody_else(arena: Arena) -> None:
    before = arena.backend.census()
    with Sibling(arena.sibling) as sibling:
        moved = sibling.received
        arena.strike("vanished_under_a_frame_to_a_tap")
        wait_for("traffic after the attack", lambda: sibling.received > moved)
        assert sibling.finish().clean
    assert "broken: a page of the guest's memory has vanished" in arena.backend.log
    wait_for("the return of all it had taken", lambda: (arena.backend.census() - before).is_none)
