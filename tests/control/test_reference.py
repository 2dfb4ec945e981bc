"""docs/control.md says what the table of methods says."""

from pathlib import Path

import pytest

from emuiavf.control.methods import METHODS
from emuiavf.control.reference import reference, written_anew

PAGE = Path(__file__).resolve().parents[2] / "docs" / "control.md"


def test_page_is_what_the_table_says() -> None:
    """If not: python -m emuiavf.control.reference docs/control.md."""
    text = PAGE.read_text()
    assert text == written_anew(text)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_section(name: str) -> None:
    assert f"\n### `{name}`\n" in "\n" + reference()


def test_what_is_outside_of_the_marks_stays() -> None:
    text = PAGE.read_text().replace("| `vf` |", "| `gone` |")
    assert "`gone`" not in written_anew(text)
    assert written_anew("a" + text + "z").startswith("a#")
    assert written_anew(text + "z").endswith("z")
