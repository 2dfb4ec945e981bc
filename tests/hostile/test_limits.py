"""What a guest can make the backend say and use up: lines of its log, its descriptors."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from emuiavf.vfio_user.channel import Refused
from emuiavf.vfio_user.client import Client
from tests.hostile.arena import Arena, make_arena
from tests.hostile.backend import wait_for
from tests.hostile.sibling import Sibling

pytestmark = pytest.mark.slow


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    made = make_arena(tmp_path)
    yield made
    made.backend.stop()


def test_lines_that_a_guest_causes_are_bounded(arena: Arena) -> None:
    """Some thousand refusals of three kinds, all within seconds: ten lines of each kind of log."""
    lines = arena.backend.lines()
    arena.strike("a_flood_of_refusals")
    assert arena.backend.lines() - lines <= 40


def test_vanished_memory_is_reported_by_name_even_after_a_flood(arena: Arena) -> None:
    arena.strike("a_flood_of_refusals")
    arena.strike("vanished_under_a_frame_being_sent")
    said = [line for line in arena.backend.log.splitlines() if "broken: a page" in line]
    assert len(said) == 1
    assert "emu_iavf0" in said[0]
    assert "map" in said[0]


def test_stopped_queue_is_reported_with_its_reason(arena: Arena) -> None:
    arena.strike("tails_out_of_range")
    assert "tx queue 0 stopped until it is reset: tail beyond the ring" in arena.backend.log


def test_descriptors_that_run_out_end_nothing(arena: Arena) -> None:
    """No more descriptors are to be had: commands that need one fail, all else goes on."""
    pid = arena.backend.pid
    with Sibling(arena.sibling) as sibling, Client(arena.victim) as client:
        used = len(os.listdir(f"/proc/{pid}/fd"))
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, hard))
        event = os.eventfd(0, os.EFD_NONBLOCK)
        refused = 0
        for vector in range(0, 16, 4):
            try:
                client.set_eventfds([event] * 4, vector)
            except Refused:
                refused += 1
        for vector in range(17):
            client.set_irqs(2, 0x09, vector, 1)
        os.close(event)
        assert refused
        moved = sibling.received
        wait_for("traffic", lambda: sibling.received > moved)
        assert sibling.finish().clean
        assert client.read32(7, 0) == 0x1889_8086
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    arena.check_victim()
