"""`emuiavf run`, `emuiavf exec` and testpmd as a user without any right of root's."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench.dpdk import Dpdk
from tests.dpdk.conftest import ROOT
from tests.dpdk.tester import Tester, mixed_frames
from tests.dpdk.testpmd import Testpmd
from tests.vm.harness.backend import BackendProcess

# nobody, nogroup
UID, GID = 65534, 65534


class User:
    """Another user, with a folder of his own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self) -> list[str]:
        """The words that make a command his."""
        drop = ["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        become = ["setpriv", f"--reuid={UID}", f"--regid={GID}", *drop]
        # DPDK's files, and what else would go to root's folders.
        return ["env", f"XDG_RUNTIME_DIR={self.folder}", f"HOME={self.folder}", *become]

    def reaches(self, *paths: Path) -> bool:
        test = [
            sys.executable,
            "-c",
            "import sys, emuiavf.app; [open(p).close() for p in sys.argv[1:]]",
        ]
        words = [*self.command(), *test, *map(str, paths)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.fixture
def user(dpdk: Dpdk) -> Iterator[User]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (Debian: util-linux)")
    # Not in pytest's folder, which is root's alone.
    with tempfile.TemporaryDirectory(prefix="emuiavf-user-") as folder:
        os.chown(folder, UID, GID)
        made = User(Path(folder))
        if not made.reaches(dpdk.root / "usr/bin/dpdk-testpmd"):
            pytest.skip("this Python, this project or the cache of DPDK is closed to other users")
        yield made


@pytest.fixture
def hugetlbfs(user: User, hugepages: None) -> Iterator[Path]:
    """A mount of huge pages that the user may write to."""
    folder = user.folder / "huge"
    folder.mkdir()
    what = ["-t", "hugetlbfs", "-o", f"uid={UID},gid={GID},mode=700,pagesize=2M", "none"]
    done = subprocess.run(["mount", *what, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"hugetlbfs: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def exchange(dpdk: Dpdk, user: User, memory: Sequence[str]) -> None:
    """Frames from our driver through a testpmd and back, all unchanged."""
    paths = [user.folder / f"vf{number}.sock" for number in range(2)]
    words = ["--idle", "adaptive", "--connect", "emu_iavf0,emu_iavf1"]
    for number, path in enumerate(paths):
        words += ["--vdev", f"emu_iavf{number},path={path},doorbell=shared"]
    device = f"path={paths[0]},addr=0000:3f:00.0"
    core = min(os.sched_getaffinity(0))
    frames = mixed_frames(1000)
    with (
        BackendProcess(words, user.folder / "backend.log", user) as backend,
        Tester(paths[1]) as tester,
        Testpmd(dpdk, [device], core=core, memory=memory, before=user.command()) as testpmd,
    ):
        for pid in (backend.pid, testpmd.pid):
            status = Path(f"/proc/{pid}/status").read_text()
            assert f"Uid:\t{UID}\t{UID}\t{UID}" in status
            assert "CapEff:\t0000000000000000" in status
        testpmd("start")
        assert [frame.data for frame in tester.exchange(frames)] == frames
        assert testpmd.quit() == 0


def test_without_hugepages(dpdk: Dpdk, user: User) -> None:
    exchange(dpdk, user, ["--no-huge", "-m", "128"])


@pytest.mark.parametrize(
    "files", [[], ["--single-file-segments"]], ids=["file-per-page", "one-file"]
)
def test_with_a_hugetlbfs_of_his_own(
    dpdk: Dpdk, user: User, hugetlbfs: Path, files: list[str]
) -> None:
    exchange(dpdk, user, ["--huge-dir", str(hugetlbfs), "-m", "128", *files])
