"""The numbered lists of docs/traps.md and docs/vfio-user.md, and the tests that bear a number.

    python -m tests.numbered        writes the lists of tests on both pages anew

A test says what it proves: `@pytest.mark.trap(22)`, `@pytest.mark.vfio_user("12.8.1")`.  What the
numbers mean stands on the pages and nowhere else.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"trap": ROOT / "docs/traps.md", "vfio_user": ROOT / "docs/vfio-user.md"}
BEGIN = "<!-- made by tests.numbered -->"
END = "<!-- end -->"

Marked = dict[str, list[str]]
"""Tests by number: `folder/test_file.py::test_function`."""


def marked(mark: str, folder: Path = ROOT / "tests") -> Marked:
    """Every test under a folder that bears the mark, its numbers in order."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text()
        if f"pytest.mark.{mark}(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                for number in _numbers_of(node, mark):
                    tests = found.setdefault(number, [])
                    tests.append(f"{path.relative_to(folder)}::{node.name}")
    return {number: found[number] for number in sorted(found, key=in_order)}


def in_order(number: str) -> tuple[int, ...]:
    """12.9.1 stands before 12.10.1."""
    return tuple(int(part) for part in number.split("."))


def numbers(page: str) -> list[str]:
    """The numbers that a page explains, as they stand."""
    return re.findall(r"^\| ([\d.]+) \|", page, re.MULTILINE)


def gaps(listed: list[str]) -> list[str]:
    """Numbers after which another than the next one follows (1.2: 1.3, 2 or 2.1)."""
    found = []
    for before, after in pairwise(listed):
        old, new = in_order(before), in_order(after)
        same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
        if same is None or new[same] != old[same] + 1 or any(part != 1 for part in new[same + 1 :]):
            found.append(f"{before}, {after}")
    return found


def written_anew(page: str, tests: Marked) -> str:
    """The page with the list of tests between its marks made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{''.join(_entries(tests))}\n{END}{after}"


def _entries(tests: Marked) -> Iterator[str]:
    for number, names in tests.items():
        files: dict[str, list[str]] = {}
        for name in names:
            path, _, function = name.partition("::")
            files.setdefault(path, []).append(f"`{function}`")
        words = "; ".join(f"{path}: {', '.join(some)}" for path, some in files.items())
        yield (
            textwrap.fill(
                f"- {number}: {words}",
                138,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
            + "\n"
        )


def _numbers_of(function: ast.FunctionDef, mark: str) -> Iterator[str]:
    """Arguments of the mark wherever it stands: above the function, or on one of its parameters."""
    for decorator in function.decorator_list:
        for node in ast.walk(decorator):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == f"pytest.mark.{mark}":
                yield from (str(ast.literal_eval(argument)) for argument in node.args)


def main() -> None:
    for mark, page in PAGES.items():
        page.write_text(written_anew(page.read_text(), marked(mark)))


if __name__ == "__main__":
    main()
