"""The tables of docs/compatibility.md, and whether the reports of a run of tests bear them out.

    python -m tests.compatibility REPORT.xml...           fails where a cell is not proved
    python -m tests.compatibility --seen REPORT.xml...    which tests have seen each opcode

A cell names tests by their keys.  Of a column with a version it stands for those instances that
have that version among their parameters: some must have passed, and none failed (one that is
skipped because the CPU lacks something is forgiven, not all).  A row of an opcode asks more: the
driver must have sent it in one of them, and been answered (or refused, where the cell says so).
"""

import argparse
import ast
import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from emuiavf.virtchnl.ops import Op
from tests.vm.harness.asked import ANSWERED, REFUSED

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/compatibility.md"
NONE = "-"
"""The driver does not use it, or no test has it do so."""
NOT_RUN = "not run"
VERSIONED = ("Linux", "DPDK", "iPXE")
OPTIONAL = ("DPDK 25.11",)
"""Their package may be gone: a cell is not at fault when its tests were skipped."""


@dataclass(frozen=True)
class Cell:
    """What one driver does with one row."""

    table: str
    row: str
    column: str
    keys: tuple[str, ...]
    refused: bool = False

    @property
    def label(self) -> str | None:
        """The version, as the parameter of tests; None where tests have none."""
        driver, _, version = self.column.partition(" ")
        return version if driver in VERSIONED else None

    def __str__(self) -> str:
        return f"{self.row} x {self.column}"


@dataclass(frozen=True)
class Page:
    """`tests` maps each key to a test function (`tests/x/test_y.py::test_z`)."""

    rows: dict[str, list[str]]
    cells: list[Cell]
    tests: dict[str, str]


def parse(text: str) -> Page:
    """ValueError where a table is not what it should be."""
    page = Page({}, [], {})
    for header, *lines in _tables(text):
        if header[0] == "key":
            for key, name, *_ in lines:
                if key in page.tests:
                    raise ValueError(f"{key}: two tests have this key")
                page.tests[key.strip("`")] = name.strip("`")
            continue
        names = page.rows.setdefault(header[0], [])
        for first, *cells in lines:
            row = first.strip("`")
            if len(cells) != len(header) - 1:
                raise ValueError(f"{row}: {len(cells)} cells, {len(header) - 1} columns")
            names.append(row)
            page.cells.extend(
                _cell(header[0], row, column, cell)
                for column, cell in zip(header[1:], cells, strict=True)
                if cell not in (NONE, NOT_RUN)
            )
    return page


def functions(file: Path) -> set[str]:
    """The tests of a file."""
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# Reports


@dataclass
class Outcome:
    """One instance of a test, and its parameters."""

    parameters: tuple[str, ...]
    failed: bool = False
    skipped: bool = False
    seen: dict[str, set[str]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not (self.failed or self.skipped)


Report = dict[str, list[Outcome]]


def read(reports: Iterable[Path]) -> Report:
    """Every instance in these files (JUnit's XML, as pytest writes it), by function."""
    found: Report = {}
    for path in reports:
        for case in xml.parse(path).iter("testcase"):
            name, _, parameters = case.attrib["name"].partition("[")
            function = f"{case.attrib['classname'].replace('.', '/')}.py::{name}"
            outcome = Outcome(tuple(parameters.rstrip("]").split("-")))
            for part in case.iter():
                outcome.failed |= part.tag in ("failure", "error")
                outcome.skipped |= part.tag == "skipped"
                if part.tag == "property":
                    seen = outcome.seen.setdefault(part.attrib["name"], set())
                    seen |= set(part.attrib["value"].split())
            found.setdefault(function, []).append(outcome)
    return found


def faults(page: Page, report: Report) -> list[str]:
    """What the tables claim and the report does not show."""
    found = []
    for cell in page.cells:
        seen: set[str] = set()
        skipped = False
        for key in cell.keys:
            test = page.tests[key]
            outcomes = [
                outcome
                for outcome in report.get(test, [])
                if cell.label is None or cell.label in outcome.parameters
            ]
            if not outcomes:
                found.append(f"{cell}: {test} was not run")
            elif any(outcome.failed for outcome in outcomes):
                found.append(f"{cell}: {test} failed")
            elif not any(outcome.passed for outcome in outcomes):
                skipped = True
                if cell.column not in OPTIONAL:
                    found.append(f"{cell}: {test} was skipped")
            for outcome in outcomes:
                if outcome.passed:
                    seen |= outcome.seen.get(REFUSED if cell.refused else ANSWERED, set())
        if cell.table == "opcode" and _is_asked(cell) and not skipped and cell.row not in seen:
            how = "refused" if cell.refused else "answered"
            found.append(f"{cell}: no {cell.row} was {how} in {', '.join(cell.keys)}")
    return found


def unclaimed(page: Page, report: Report) -> Iterator[str]:
    """Opcodes that a driver was answered although the table knows nothing of it."""
    claimed = {(cell.row, cell.label) for cell in page.cells if not cell.refused}
    labels = {cell.label for cell in page.cells}
    for test, outcomes in sorted(report.items()):
        for outcome in outcomes:
            of = next((name for name in outcome.parameters if name in labels), None)
            if outcome.passed and of is not None:
                for op in sorted(outcome.seen.get(ANSWERED, ())):
                    if (op, of) not in claimed:
                        claimed.add((op, of))
                        yield f"{op} x {of}: {test}"


def _seen(report: Report) -> Iterator[str]:
    found: dict[tuple[str, str, str], set[str]] = {}
    for test, outcomes in report.items():
        for outcome in outcomes:
            if outcome.passed:
                for kind, ops in outcome.seen.items():
                    for op in ops:
                        found.setdefault((op, kind, outcome.parameters[0]), set()).add(test)
    for (op, kind, first), tests in sorted(found.items()):
        few = ", ".join(sorted(tests)[:3]) + (f" and {len(tests) - 3} more" * (len(tests) > 3))
        yield f"{op} {kind.rpartition(' ')[2]} {first}: {few}"


def _tables(text: str) -> Iterator[list[list[str]]]:
    """Cells of the tables of a page, by lines; the line of dashes is left out."""
    table: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not set("".join(cells)) <= set("-:"):
                table.append(cells)
        elif table:
            yield table
            table = []


def _is_asked(cell: Cell) -> bool:
    """Whether reports say what the driver asked; an event it is sent."""
    return cell.label is not None and cell.row != Op.EVENT.name


def _cell(table: str, row: str, column: str, text: str) -> Cell:
    words = text.removeprefix("refused: ")
    keys = tuple(key.strip(" `") for key in words.split(","))
    return Cell(table, row, column, keys, refused=words != text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--seen", action="store_true", help="print which tests saw each opcode")
    args = parser.parse_args()
    report = read(args.reports)
    if args.seen:
        print("\n".join(_seen(report)))
        return 0
    page = parse(PAGE.read_text())
    for line in unclaimed(page, report):
        print(f"compatibility: could be claimed: {line}")
    found = faults(page, report)
    for line in found:
        print(f"compatibility: {line}", file=sys.stderr)
    print(f"compatibility: {len(page.cells)} cells, {len(found)} of them not proved")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
