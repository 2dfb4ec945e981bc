"""A backend in this process, and programs under `emuiavf exec` that use its devices."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emuiavf import Backend

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 30

Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*devices: str) -> list[str]:
    """The words before the program."""
    words = [sys.executable, "-m", "emuiavf", "exec"]
    for device in devices:
        words += ["--device", device]
    return [*words, "--"]


def program(code: str) -> list[str]:
    """A program that has VFIO's calls at hand."""
    prelude = "from tests.shim.vfio import *\nimport signal, subprocess, sys, threading\n"
    return [sys.executable, "-c", prelude + textwrap.dedent(code)]


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two devices that are looped back; the second is `doorbell=shared`."""
    folder = tmp_path_factory.mktemp("shim")
    paths = [folder / "vf0.sock", folder / "vf1.sock"]
    with Backend() as backend:
        backend.add_device(f"emu_iavf0,path={paths[0]}")
        backend.add_device(f"emu_iavf1,path={paths[1]},doorbell=shared")
        backend.connect("emu_iavf0")
        backend.connect("emu_iavf1")
        backend.start()
        yield paths


@pytest.fixture
def run(sockets: list[Path]) -> Run:
    """Run Python code against both devices, at 0000:3f:00.0 and 0000:3f:01.0; it must succeed."""
    devices = [f"path={path},addr=0000:3f:{i:02x}.0" for i, path in enumerate(sockets)]

    def run(code: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command(*devices), *program(code)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == status, done.stderr
        return done

    return run
