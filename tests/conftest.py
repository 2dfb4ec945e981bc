"""Options and descriptors that several folders of tests share."""

import os
from collections.abc import Iterator

import pytest

from tests import rings


@pytest.fixture(autouse=True)
def _descriptors_of_drivers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what the Drivers of a test have opened: thousands of them are made in one run."""
    opened: list[int] = []
    monkeypatch.setattr(rings, "opened", opened)
    yield
    for fd in opened:
        os.close(fd)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("emuiavf")
    group.addoption(
        "--kernels",
        help="kernels of the guests, with commas (default: those each file of tests/vm names)",
    )
    group.addoption(
        "--dpdk",
        help="releases of DPDK, with commas (default: 22.11, 24.11, and 25.11 for some tests)",
    )
    group.addoption("--vm-report", help="file for the measured rates, one JSON line per kernel")
