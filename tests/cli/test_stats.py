"""`emuiavf stats` from another process."""

import json
import os
from collections.abc import Iterator

import pytest

from emuiavf.stats import Segment, queue_rows
from tests.cli.process import emuiavf

pytestmark = pytest.mark.slow


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment(f"cli{os.getpid()}", queue_rows(1))
    made.rows[0, 0] = 1_234_567
    made.rows[1, 5] = 9
    yield made
    made.close()


def test_json_has_the_names_of_ethtool(segment: Segment) -> None:
    name = segment.ident.name
    result = emuiavf("stats", "--json", name)
    counters = json.loads(result.stdout)[name]
    wanted = ("rx_bytes", "tx_errors", "rx-0.packets", "tx-0.errors")
    assert [counters[key] for key in wanted] == [1_234_567, 9, 0, 9]
    assert result.returncode == 0


def test_json_without_a_name_has_everything_that_runs(segment: Segment) -> None:
    assert segment.ident.name in json.loads(emuiavf("stats", "--json").stdout)


def test_table_shows_totals_and_what_is_not_zero(segment: Segment) -> None:
    out = emuiavf("stats", segment.ident.name).stdout
    shown = [word in out for word in ("1,234,567", "rx_discards", "tx-0.errors", "tx-0.held")]
    assert shown == [True, True, True, False]


def test_table_shows_zeros_when_asked(segment: Segment) -> None:
    assert "tx-0.held" in emuiavf("stats", "--all", segment.ident.name).stdout


def test_unknown_name_is_one_line_and_exit_code_2(segment: Segment) -> None:
    result = emuiavf("stats", "nosuch")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("emuiavf: nosuch: no running process has counters")
