"""A backend with two devices, and what tests do with it: strike one, look after both."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from emuiavf.guest.driver import VfDriver
from tests.hostile.backend import ROOT, BackendProcess, wait_for

VICTIM = "emu_iavf0"
SEED = 20261122


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
