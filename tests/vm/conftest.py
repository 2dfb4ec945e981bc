"""Fixtures of the tests with a real QEMU: the package cache, namespaces and one boot per module."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.harness import asked, netns

ROOT = Path(__file__).resolve().parents[2]
# Debian's oldest supported one, its stable one and its newest.  A file that one kernel is enough
# for, or that some have not the features for, names its own KERNELS.
KERNELS = ("6.1", "6.12", "7")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--kernels")
        own = getattr(metafunc.module, "KERNELS", KERNELS)
        metafunc.parametrize("kernel", wanted.split(",") if wanted else own, scope="module")


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    """QEMU, kernels and their initramfs; fetched on the first run."""
    where = Path(os.environ.get("EMUIAVF_VM_CACHE") or ROOT / ".cache" / "vm").resolve()
    labels = request.config.getoption("--kernels") or ",".join(KERNELS)
    run = [sys.executable, "-m"]
    subprocess.run(
        [*run, "tests.vm.harness.fetch", str(where), "--kernels", labels, "--tidy"],
        cwd=ROOT,
        check=True,
    )
    for label in labels.split(","):
        subprocess.run(
            [*run, "tests.vm.harness.initramfs", str(where), label, "--quiet"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return where


@pytest.fixture(scope="session")
def _namespaces() -> None:
    if reason := netns.unavailable():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _asked(request: pytest.FixtureRequest) -> Iterator[None]:
    """The report says what the drivers asked."""
    with asked.recorded(request.node.user_properties):
        yield


@pytest.fixture(scope="module")
def host(_namespaces: None) -> Iterator[netns.Namespace]:
    """The host's side of the wire: a namespace of its own for each module."""
    with netns.Namespace() as namespace:
        yield namespace
