"""A backend with two devices, and what tests do with it: strike one, look after both."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from emuiavf.guest.driver import VfDriver
from tests.hostile.backend import ROOT, BackendProcess, wait_for

VICTIM = "emu_iavf0"
SEED = 20261122
STRIKE_S = 120


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

    def begin(self, name: str, seed: int = SEED) -> subprocess.Popen[str]:
        """One attack as a process, its complaint in `stderr`."""
        arguments = [name, self.victim, str(self.backend.pid), VICTIM, str(seed)]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.attacker", *arguments],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def strike(self, name: str, seed: int = SEED) -> None:
        """Run one attack to its end; its traceback is the failure."""
        attacker = self.begin(name, seed)
        try:
            _, said = attacker.communicate(timeout=STRIKE_S)
        except subprocess.TimeoutExpired:
            attacker.kill()
            _, said = attacker.communicate()
            said += f"not finished in {STRIKE_S} s"
        story = f"{said[-6000:]}\nbackend:\n{self.backend.log[-4000:]}"
        assert attacker.returncode == 0, f"attack {name}, seed {seed}:\n{story}"

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


def make_arena(folder: Path, workers: int = 1) -> Arena:
    """Each device connected to itself; two workers serve one device each."""
    devices = {VICTIM: "victim", "emu_iavf1": "sibling"}
    arguments = ["--workers", str(workers)]
    for name, socket in devices.items():
        # A large VF is to be had, on the vectors of a small one.
        options = f"path={folder}/{socket}.sock,max-queues=64,vectors=17"
        arguments += ["--vdev", f"{name},{options}", "--connect", name]
    return Arena(folder, BackendProcess(folder, arguments))


def tap_arena(folder: Path) -> Arena:
    """The victim on a TAP interface, all of it in a network namespace of its own."""
    arguments = ["--port", "tap0,type=tap,ifname=hostile0,mtu=9000"]
    for name, socket, others in ((VICTIM, "victim", ",tap0"), ("emu_iavf1", "sibling", "")):
        arguments += ["--vdev", f"{name},path={folder}/{socket}.sock", "--connect", name + others]
    return Arena(folder, BackendProcess(folder, arguments, prefix=("unshare", "--net")))
