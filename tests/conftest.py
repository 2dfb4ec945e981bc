"""Options that several folders of tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("emuiavf")
    group.addoption(
        "--kernels",
        help="kernels of the guests, with commas (default: those each file of tests/vm names)",
    )
    group.addoption("--vm-report", help="file for the measured rates, one JSON line per kernel")
