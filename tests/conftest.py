"""Options that several folders of tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("emuiavf")
    group.addoption(
        "--kernels",
        default="6.1,6.12",
        help="kernels of the guests, with commas (default: %(default)s)",
    )
    group.addoption("--vm-report", help="file for the measured rates, one JSON line per kernel")
