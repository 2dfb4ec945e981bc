"""Options that several folders of tests share."""

import pytest


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
