"""Guest memory as one file per page: rings, buffers and frames lie across many of them."""

import os
import random

import pytest

from emuiavf._dma import MemTable
from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RxFilter
from tests import rings
from tests.rings import Driver

PAGE = 4096
MAC_A, MAC_B = b"\x02\0\0\0\0\x0a", b"\x02\0\0\0\0\x0b"


class PagedDriver(Driver):
    """The same guest; each page of its memory is a file of its own, as with small hugepages."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.mem.unmap_all()
        self.mem.reclaim()
        for at in range(0, rings.SIZE, PAGE):
            fd = os.memfd_create("page", os.MFD_CLOEXEC)
            os.ftruncate(fd, PAGE)
            self.mem.map(at, PAGE, 3, fd, 0)
        self.memory = memoryview(self.mem.view(0, rings.SIZE, writable=True))


@pytest.fixture(scope="module")
def pair() -> tuple[PagedDriver, PagedDriver, Engine]:
    a = PagedDriver("a", ring_len=512, buffer_size=2048)
    b = PagedDriver("b", ring_len=512, buffer_size=2048)
    engine = Engine(hold_s=10.0)
    for driver, mac in ((a, MAC_A), (b, MAC_B)):
        driver.vf.set_filter(RxFilter(frozenset({mac})))
        driver.enable()
        engine.add(driver.vf)
    engine.connect(a.vf, b.vf)
    return a, b, engine


def test_pages_of_many_files_are_one_extent(pair: tuple[PagedDriver, PagedDriver, Engine]) -> None:
    a, _, _ = pair
    assert len(a.mem.regions) == rings.SIZE // PAGE == 8192
    assert a.mem.extents == ((0, rings.SIZE, 3),)


@pytest.mark.parametrize("size", [60, 129, 1518, 4096, 9000])
def test_frames_cross_pages_of_different_files(
    pair: tuple[PagedDriver, PagedDriver, Engine], size: int
) -> None:
    """Rings of 16 KiB and buffers at odd places: every frame begins elsewhere in its page."""
    a, b, engine = pair
    rng = random.Random(size)
    sent = []
    for _ in range(40):
        # The last bytes of a page, so that even a head lies in two files.
        a.top += (-a.top - rng.randrange(1, 128)) % PAGE
        b.post(-(-size // b.buffer_size))
        sent.append(MAC_B + MAC_A + b"\x88\xb5" + rng.randbytes(size - 14))
        a.send(sent[-1], pieces=[size] if size < 1600 else [1000, size - 1000])
        engine.step(4)
    assert [bytes(frame.data) for frame in b.receive()] == sent


@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_files_of_all_sizes_are_read_as_one(seed: int) -> None:
    rng = random.Random(seed)
    mem, at, places = MemTable(), 0x7F00_0000_0000, []
    for _ in range(4096):
        size = PAGE << rng.randrange(10)
        fd = os.memfd_create("part", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        mem.map(at, size, 3, fd, 0)
        places.append(at)
        at += size
    assert mem.extents == ((places[0], at - places[0], 3),)
    for border in rng.sample(places[1:], 50):
        mem.write(border - 3, b"across")
        assert mem.read(border - 3, 6) == b"across"
    assert mem.unmap(places[0], at - places[0]) == 4096
