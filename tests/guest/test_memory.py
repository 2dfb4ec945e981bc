import os

import pytest

from emuiavf.guest.memory import DmaMemory


def test_alloc_gives_zeroed_aligned_blocks_inside_the_range(memory: DmaMemory) -> None:
    block = memory.alloc(100, align=256)
    other = memory.alloc(64, align=256)

    assert (block.iova, other.iova) == (memory.iova, memory.iova + 256)
    assert block.size == 128
    assert bytes(block.view) == bytes(128)


def test_alloc_when_nothing_fits_raises(memory: DmaMemory) -> None:
    with pytest.raises(MemoryError, match="no hole"):
        memory.alloc(memory.size + 64)


def test_free_merges_neighbours(memory: DmaMemory) -> None:
    third = memory.size // 4
    blocks = [memory.alloc(third) for _ in range(4)]

    for block in (blocks[0], blocks[2], blocks[1]):
        memory.free(block)

    assert memory.alloc(3 * third).offset == 0


def test_freed_block_is_zeroed_when_it_comes_back(memory: DmaMemory) -> None:
    block = memory.alloc(64)
    block.view[:] = b"\xff" * 64
    memory.free(block)

    assert bytes(memory.alloc(64).view) == bytes(64)


def test_file_cannot_be_shrunk(memory: DmaMemory) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 0)


def test_what_one_side_writes_the_file_holds(memory: DmaMemory) -> None:
    block = memory.alloc(64)

    block.view[:4] = b"abcd"

    assert os.pread(memory.fd, 4, block.offset) == b"abcd"
