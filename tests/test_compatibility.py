"""docs/compatibility.md names tests that exist and leaves nothing out that is served; and what
reads the reports of CI finds each way in which a claim can be wrong."""

import ast
from pathlib import Path

import pytest

from bench.dpdk import RELEASES
from emuiavf.virtchnl.ops import Cap, Op
from emuiavf.virtchnl.resources import GRANTED
from emuiavf.virtchnl.session import RULES
from tests import compatibility
from tests.compatibility import PAGE, ROOT, Page, faults, functions, parse, read, unclaimed
from tests.dpdk import conftest as dpdk
from tests.vm import conftest as vm
from tests.vm.harness.fetch import IPXE_SUITES


@pytest.fixture(scope="module")
def page() -> Page:
    return parse(PAGE.read_text())


def versions(test: str) -> set[str]:
    """What may stand for the first parameter of a test."""
    path = ROOT / test.partition("::")[0]
    if path.parent.name == "dpdk":
        is_newest = "newest" in marks(path, test.partition("::")[2])
        return set(RELEASES) if is_newest else set(RELEASES) - {dpdk.NEWEST}
    if path.name == "test_ipxe.py":
        return set(IPXE_SUITES)
    if path.parent.name != "vm":
        return set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KERNELS":
            return set(ast.literal_eval(node.value))
    return set(vm.KERNELS)


def marks(path: Path, name: str) -> set[str]:
    """The marks without arguments of a test."""
    (test,) = (
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    return {
        node.attr
        for node in test.decorator_list
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pytest.mark"
    }


def test_every_test_that_is_named_exists(page: Page) -> None:
    names = [name.split("::") for name in page.tests.values()]
    known = {file: functions(ROOT / file) for file, _ in names}
    assert [f"{file}::{test}" for file, test in names if test not in known[file]] == []


def test_every_key_is_that_of_a_test_and_is_used(page: Page) -> None:
    assert {key for cell in page.cells for key in cell.keys} == set(page.tests)


def test_every_cell_names_tests_of_its_version(page: Page) -> None:
    wrong = [
        f"{cell}: {page.tests[key]}"
        for cell in page.cells
        for key in cell.keys
        if cell.label is not None and cell.label not in versions(page.tests[key])
    ]
    assert wrong == []


def test_every_version_that_is_tested_has_its_column(page: Page) -> None:
    tested = {*vm.KERNELS, *RELEASES, *IPXE_SUITES}
    assert {cell.label for cell in page.cells if cell.label is not None} == tested


def test_every_opcode_has_one_row(page: Page) -> None:
    assert sorted(page.rows["opcode"]) == sorted(op.name for op in Op if op is not Op.UNKNOWN)


def test_every_opcode_that_is_served_is_proved_by_somebody(page: Page) -> None:
    proved = {cell.row for cell in page.cells if cell.table == "opcode" and not cell.refused}
    assert {op.name for op in RULES} - proved == set()


def test_no_opcode_that_is_not_served_is_claimed(page: Page) -> None:
    claimed = {cell.row for cell in page.cells if cell.table == "opcode" and not cell.refused}
    assert claimed - {op.name for op in RULES} - {Op.EVENT.name} == set()


def test_every_capability_that_is_granted_has_one_row(page: Page) -> None:
    assert sorted(page.rows["capability"]) == sorted(cap.name for cap in Cap if cap in GRANTED)


def test_every_row_of_the_other_tables_is_proved_by_somebody(page: Page) -> None:
    for table in page.rows.keys() - {"opcode"}:
        proved = {cell.row for cell in page.cells if cell.table == table}
        assert set(page.rows[table]) - proved == set()


# The reader of reports

TEXT = """
| opcode | Linux 6.1 | DPDK 24.11 | ours |
|---|---|---|---|
| `VERSION` | `up` | `up`, `other` | `unit` |
| `GET_STATS` | - | refused: `up` | not run |

| feature | Linux 6.1 |
|---|---|
| TSO | `up` |

| key | test |
|---|---|
| `up` | `tests/vm/test_a.py::test_up` |
| `other` | `tests/vm/test_a.py::test_other` |
| `unit` | `tests/test_b.py::test_unit` |
"""
SAW = '<property name="virtchnl answered" value="RESET_VF VERSION" />'
ALL = {
    "test_up[6.1-x]": SAW,
    "test_up[6.1-y]": "",
    "test_up[24.11]": '<property name="virtchnl refused" value="GET_STATS" />',
    "test_other[24.11]": '<property name="virtchnl answered" value="VERSION" />',
    "test_unit": "",
}


def report(tmp_path: Path, cases: dict[str, str]) -> compatibility.Report:
    path = tmp_path / "report.xml"
    body = "".join(
        f'<testcase classname="tests.{"test_b" if name == "test_unit" else "vm.test_a"}" '
        f'name="{name}">{inner}</testcase>'
        for name, inner in cases.items()
    )
    path.write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
    return read([path])


def test_a_report_that_bears_out_every_cell_is_accepted(tmp_path: Path) -> None:
    assert faults(parse(TEXT), report(tmp_path, ALL)) == []


@pytest.mark.parametrize(
    ("name", "inner", "fault"),
    [
        ("test_up[6.1-y]", "<failure />", "VERSION x Linux 6.1: tests/vm/test_a.py::test_up fail"),
        ("test_up[6.1-x]", "<error />", "TSO x Linux 6.1: tests/vm/test_a.py::test_up failed"),
        ("test_unit", "<skipped />", "VERSION x ours: tests/test_b.py::test_unit was skipped"),
        ("test_up[6.1-x]", "", "VERSION x Linux 6.1: no VERSION was answered in up"),
        ("test_up[6.1-x]", "<skipped />" + SAW, "VERSION x Linux 6.1: no VERSION was answered in"),
        ("test_up[24.11]", "", "GET_STATS x DPDK 24.11: no GET_STATS was refused in up"),
        ("test_other[24.11]", None, "VERSION x DPDK 24.11: tests/vm/test_a.py::test_other was not"),
        ("test_unit", None, "VERSION x ours: tests/test_b.py::test_unit was not run"),
    ],
)
def test_what_the_report_does_not_show_is_said(
    tmp_path: Path, name: str, inner: str | None, fault: str
) -> None:
    cases = {**ALL, name: inner}
    shown = {key: value for key, value in cases.items() if value is not None}
    found = faults(parse(TEXT), report(tmp_path, shown))
    assert [line for line in found if line.startswith(fault)]


def test_one_instance_of_several_may_be_skipped(tmp_path: Path) -> None:
    cases = {**ALL, "test_up[6.1-y]": "<skipped />"}
    assert faults(parse(TEXT), report(tmp_path, cases)) == []


def test_a_version_that_cannot_be_had_is_no_fault(tmp_path: Path) -> None:
    page = parse(TEXT.replace("DPDK 24.11", "DPDK 25.11"))
    cases = {name.replace("24.11", "25.11"): inner for name, inner in ALL.items()}
    gone = {name: "<skipped />" if "25.11" in name else cases[name] for name in cases}
    assert faults(page, report(tmp_path, gone)) == []
    wrong = {**gone, "test_other[25.11]": "<failure />"}
    assert len(faults(page, report(tmp_path, wrong))) == 1


def test_what_was_answered_and_is_not_claimed_is_said(tmp_path: Path) -> None:
    assert list(unclaimed(parse(TEXT), report(tmp_path, ALL))) == [
        "RESET_VF x 6.1: tests/vm/test_a.py::test_up"
    ]


def test_a_row_with_a_cell_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match=r"GET_STATS: 2 cells, 3 columns"):
        parse(TEXT.replace(" | not run", ""))
