"""Each attack by a process of its own, on a backend that serves another guest at the same time.

The attacker sees the specified error or a stopped queue that a reset cures (asserted in its own
process); the other guest loses nothing, the backend neither ends nor leaks nor fills its log, and
the attacked device works for the next client.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emuiavf.guest.driver import VfDriver
from tests.hostile.attacker import load
from tests.hostile.backend import ROOT, BackendProcess, wait_for
from tests.hostile.sibling import Sibling

VICTIM = "emu_iavf0"
# Lines that a guest can cause: ten per device and ten seconds of each kind of log, with room for
# an attack that lasts through several such windows.
MAX_LINES = 60
SEED = 20261122
pytestmark = pytest.mark.slow


@dataclass
class Arena:
    """A backend with two devices, each connected to itself, served by one worker."""

    folder: Path
    backend: BackendProcess

    @property
    def victim(self) -> str:
        return str(self.folder / "victim.sock")

    @property
    def sibling(self) -> str:
        return str(self.folder / "sibling.sock")

    def strike(self, name: str, seed: int = SEED) -> None:
        """Run one attack; its traceback is the failure."""
        arguments = [name, self.victim, str(self.backend.pid), VICTIM, str(seed)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.hostile.attacker", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        story = f"{done.stderr[-6000:]}\nbackend:\n{self.backend.log[-4000:]}"
        assert done.returncode == 0, f"attack {name}, seed {seed}:\n{story}"

    def check_victim(self) -> None:
        """The next client finds a device that works."""
        with VfDriver(self.victim, memory_size=8 << 20) as vf:
            vf.start(1, ring_len=64)
            pair = vf.queues[0]
            frame = (vf.mac + vf.mac + b"\x88\xb5").ljust(600, b"\x5a")
            assert pair.send([frame] * 20) == 20
            frames: list[bytes] = []
            wait_for("20 frames", lambda: len(self._more(frames, vf)) == 20)
            assert frames == [frame] * 20

    @staticmethod
    def _more(frames: list[bytes], vf: VfDriver) -> list[bytes]:
        frames += [frame.data for frame in vf.queues[0].receive()]
        return frames


def make_arena(folder: Path) -> Arena:
    devices = {VICTIM: "victim", "emu_iavf1": "sibling"}
    arguments = ["--idle", "adaptive"]
    for name, socket in devices.items():
        arguments += ["--vdev", f"{name},path={folder}/{socket}.sock", "--connect", name]
    return Arena(folder, BackendProcess(folder, arguments))


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    made = make_arena(tmp_path_factory.mktemp("hostile"))
    made.check_victim()
    yield made
    made.backend.stop()


@pytest.mark.parametrize("name", sorted(load()))
def test_attack_hurts_nobody_else(arena: Arena, name: str) -> None:
    backend = arena.backend
    if not backend.is_alive:
        pytest.fail(f"the backend did not survive an earlier attack:\n{backend.log[-4000:]}")
    before, lines = backend.census(), backend.lines()
    with Sibling(arena.sibling) as sibling:
        moved = sibling.received
        arena.strike(name)
        wait_for("traffic after the attack", lambda: sibling.received > moved)
        seen = sibling.finish()
    assert backend.is_alive
    assert seen.clean, seen
    arena.check_victim()
    wait_for("the return of all it had taken", lambda: (backend.census() - before).is_none)
    assert backend.lines() - lines < MAX_LINES
