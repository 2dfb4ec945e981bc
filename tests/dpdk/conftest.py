"""Fixtures of the tests with unmodified DPDK: the packages, a backend process, testpmd."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench import debian
from bench import hugepages as huge
from bench.dpdk import OVS, RELEASES, Dpdk, cache_folder, fetched
from tests.dpdk.testpmd import Testpmd
from tests.vm.harness import asked
from tests.vm.harness.backend import BackendProcess

# Debian's next one has it: it needs another C library than this machine's, and may be gone there
# for a newer one.  Only tests marked `newest` run on it, unless all are asked for.
NEWEST = "25.11"
_HUGE_MB = 768
ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.dpdk)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dpdk" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--dpdk")
    newest = metafunc.definition.get_closest_marker("newest") is not None
    names = wanted.split(",") if wanted else [n for n in RELEASES if newest or n != NEWEST]
    metafunc.parametrize("dpdk", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def dpdk(request: pytest.FixtureRequest) -> Dpdk:
    """The releases of DPDK, one after the other; fetched on the first run."""
    try:
        return fetched(cache_folder(), RELEASES[request.param])
    except debian.Failed as reason:
        if request.param != NEWEST:
            raise
        pytest.skip(f"DPDK {NEWEST} cannot be had: {reason}")


@pytest.fixture(scope="session")
def ovs_packages() -> Dpdk:
    """Open vSwitch with its DPDK datapath."""
    return fetched(cache_folder(), OVS)


@pytest.fixture(autouse=True)
def _asked(request: pytest.FixtureRequest) -> Iterator[None]:
    """The report says what the drivers asked."""
    with asked.recorded(request.node.user_properties):
        yield


class Bench:
    """A backend and the programs on it; all end with the test."""

    def __init__(self, dpdk: Dpdk, folder: Path, stack: ExitStack) -> None:
        self.dpdk = dpdk
        self.folder = folder
        self._stack = stack
        self.backend: BackendProcess | None = None

    def serve(self, *arguments: str, devices: int = 1, options: str = "") -> BackendProcess:
        """`emuiavf run` with emu_iavf0, emu_iavf1, ... and these arguments."""
        words = ["--idle", "adaptive"]
        for number in range(devices):
            path = self.folder / f"vf{number}.sock"
            words += ["--vdev", f"emu_iavf{number},path={path},doorbell=shared{options}"]
        backend = BackendProcess([*words, *arguments], self.folder / "backend.log")
        self.backend = self._stack.enter_context(backend)
        return backend

    def device(self, number: int = 0) -> str:
        """The argument of `emuiavf exec` for one of them."""
        return f"path={self.folder / f'vf{number}.sock'},addr=0000:3f:{number:02x}.0"

    def testpmd(self, number: int = 0, *, more: Sequence[int] = (), **arguments: Any) -> Testpmd:
        """testpmd on a device, or on more; at its prompt in its block."""
        cores = sorted(os.sched_getaffinity(0))
        devices = [self.device(i) for i in (number, *more)]
        return Testpmd(self.dpdk, devices, core=cores[number % len(cores)], **arguments)


@pytest.fixture
def bench(dpdk: Dpdk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(dpdk, tmp_path_factory.mktemp("dpdk"), stack)


@pytest.fixture
def hugepages() -> Iterator[None]:
    """768 MB of free pages of 2 MiB, where the machine lets us."""
    with huge.reserved(_HUGE_MB) as got:
        if not got:
            pytest.skip(f"no {_HUGE_MB} MB of huge pages: {huge.RESERVED} cannot be raised so far")
        yield
