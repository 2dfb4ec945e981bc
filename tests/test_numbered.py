"""Every trap of the drivers and every rule of vfio-user that the pages list is a test."""

from pathlib import Path

import pytest

from tests.numbered import PAGES, gaps, marked, numbers, written_anew

COUNTS = {"trap": 40, "vfio_user": 141}


@pytest.mark.parametrize("mark", PAGES)
def test_numbers_of_a_page_follow_each_other(mark: str) -> None:
    listed = numbers(PAGES[mark].read_text())
    assert len(listed) == COUNTS[mark]
    assert gaps(listed) == []


@pytest.mark.parametrize("mark", PAGES)
def test_every_number_has_a_test(mark: str) -> None:
    assert set(numbers(PAGES[mark].read_text())) - marked(mark).keys() == set()


@pytest.mark.parametrize("mark", PAGES)
def test_every_number_in_use_is_explained(mark: str) -> None:
    assert marked(mark).keys() - set(numbers(PAGES[mark].read_text())) == set()


@pytest.mark.parametrize("mark", PAGES)
def test_page_names_the_tests_that_bear_its_numbers(mark: str) -> None:
    page = PAGES[mark].read_text()
    assert written_anew(page, marked(mark)) == page, "python -m tests.numbered writes it anew"


def test_marks_are_found_above_functions_and_on_parameters(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "@pytest.mark.trap(10, 9)\ndef test_a(): ...\n"
        "class TestB:\n"
        "    @pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.trap(9))])\n"
        "    def test_b(self, x): ...\n"
        "@pytest.mark.other(7)\ndef test_c(): ...\n"
    )
    assert list(marked("trap", tmp_path).items()) == [
        ("9", ["test_some.py::test_a", "test_some.py::test_b"]),
        ("10", ["test_some.py::test_a"]),
    ]


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (["1", "2", "3"], []),
        (["1", "3"], ["1, 3"]),
        (["11.1", "11.2", "12.1.1", "12.1.2", "12.2.1"], []),
        (["12.1.1", "12.1.1"], ["12.1.1, 12.1.1"]),
        (["12.1.2", "12.2.2"], ["12.1.2, 12.2.2"]),
        (["12.1.3", "12.1.2"], ["12.1.3, 12.1.2"]),
    ],
)
def test_gaps_in_a_list_are_found(listed: list[str], found: list[str]) -> None:
    assert gaps(listed) == found
