"""The MSI-X table and PBA."""

import pytest

from emuiavf.pci.msix import Msix, MsixLayout


class Vectors:
    def __init__(self, num_vectors: int = 65) -> None:
        self.sent: list[int] = []
        self.msix = Msix(MsixLayout(num_vectors, bar=3), self.sent.append)


@pytest.fixture
def it() -> Vectors:
    return Vectors()


def test_entries_are_masked_after_creation(it: Vectors) -> None:
    assert it.msix.read(0, 32) == (bytes(12) + b"\x01\0\0\0") * 2


def test_entry_reads_back_what_was_written(it: Vectors) -> None:
    it.msix.write(16, bytes.fromhex("0310e0fe 01000000 41000000 ffffffff".replace(" ", "")))
    expected = "0010e0fe 01000000 41000000 01000000".replace(" ", "")
    assert it.msix.read(16, 16) == bytes.fromhex(expected)


def test_read_across_the_end_of_the_table_gives_zeroes_behind_it(it: Vectors) -> None:
    assert it.msix.read(65 * 16 - 4, 8) == b"\x01\0\0\0\0\0\0\0"


def test_write_outside_of_the_table_is_ignored(it: Vectors) -> None:
    it.msix.write(0x2000, b"\xff" * 16)
    it.msix.write(65 * 16, b"\xff" * 16)
    assert it.msix.read(0x2000, 16) == it.msix.read(65 * 16, 16) == bytes(16)


@pytest.mark.parametrize(
    ("vector", "pba"), [(0, "01" + "00" * 15), (64, "00" * 8 + "01" + "00" * 7)]
)
def test_pending_bit_shows_in_the_pba(it: Vectors, vector: int, pba: str) -> None:
    it.msix.set_pending(vector)
    assert it.msix.read(0x2000, 16).hex() == pba


def test_pending_vector_is_sent_once_when_msix_is_enabled(it: Vectors) -> None:
    it.msix.set_pending(3)
    it.msix.set_control(True, False)
    it.msix.set_control(True, False)
    assert (it.sent, it.msix.pending) == ([3], 0)


def test_function_mask_holds_all_vectors_until_it_is_cleared(it: Vectors) -> None:
    it.msix.set_control(True, True)
    it.msix.set_pending(5)
    it.msix.set_pending(2)
    held = list(it.sent)
    it.msix.set_control(True, False)
    assert (held, it.sent) == ([], [2, 5])


def test_entry_mask_holds_one_vector_until_it_is_cleared(it: Vectors) -> None:
    it.msix.set_control(True, False)
    it.msix.write(2 * 16 + 12, b"\x01\0\0\0")
    it.msix.set_pending(2)
    masked = it.msix.is_masked(2)
    it.msix.write(2 * 16 + 12, b"\0")
    assert (masked, it.msix.is_masked(2), it.sent) == (True, False, [2])


def test_entries_count_as_unmasked_while_no_table_write_arrives(it: Vectors) -> None:
    it.msix.set_control(True, False)
    assert not it.msix.is_masked(1)


def test_cleared_pending_bit_is_not_sent(it: Vectors) -> None:
    it.msix.set_pending(1)
    it.msix.clear_pending(1)
    it.msix.set_control(True, False)
    assert it.sent == []


def test_reset_masks_and_forgets(it: Vectors) -> None:
    it.msix.set_control(True, False)
    it.msix.write(12, b"\0")
    it.msix.set_control(False, False)
    it.msix.set_pending(0)
    it.msix.reset()
    assert (it.msix.is_masked(0), it.msix.pending, it.msix.read(12, 1)) == (True, 0, b"\x01")


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_vectors": 0},
        {"num_vectors": 2049, "pba_offset": 0x10000},
        {"num_vectors": 17, "pba_offset": 0x100},
        {"num_vectors": 2, "table_offset": 4},
    ],
)
def test_layout_that_pci_forbids_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(AssertionError):
        MsixLayout(bar=3, **wrong)
