"""doorbell=shared: all of BAR0 is memory, and stores into it are found instead of trapped."""

import mmap
import os
import random
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from emuiavf.emudev.info import MmapArea, ResetReason
from emuiavf.iavf import regs
from emuiavf.iavf.regs import AqLen
from tests.fakes.vf_driver import HABITS, VPP_AVF, Habit, VfDriver
from tests.iavf.conftest import BAR0, Bench

ALL_CAPS = struct.pack("<I", 0xFFFF_FFFF)
VERSION = struct.pack("<II", 1, 1)
DEADLINE_S = 5.0


class StoreBar:
    """BAR0 as the guest has it mapped; `look` after a tail is what the worker makes control do."""

    def __init__(self, bench: Bench) -> None:
        fd = bench.device.describe().regions[BAR0].fd
        assert fd is not None
        self.memory = mmap.mmap(fd, regs.BAR0_SIZE)
        self._words = memoryview(self.memory).cast("I")
        self._bench = bench

    def read32(self, offset: int) -> int:
        return self._words[offset // 4]

    def store(self, offset: int, value: int) -> None:
        self._words[offset // 4] = value

    def write32(self, offset: int, value: int) -> None:
        self.store(offset, value)
        if offset in (regs.ATQT1.offset, regs.ARQT1.offset):
            self.look()

    def look(self) -> None:
        self._bench.device.region_read(BAR0, regs.VFGEN_RSTAT.offset, 4)

    def close(self) -> None:
        self._words.release()
        self.memory.close()


@pytest.fixture
def shared(make_bench: Callable[[str], Bench]) -> Bench:
    return make_bench(",doorbell=shared")


@pytest.fixture
def bar(shared: Bench) -> Iterator[StoreBar]:
    bar = StoreBar(shared)
    yield bar
    bar.close()


def opened(bench: Bench, bar: StoreBar, habit: Habit) -> VfDriver:
    bench.map()
    bench.bus_master()
    driver = VfDriver(bench.device.emu.mem, bar, habit)
    driver.open()
    return driver


def negotiate(driver: VfDriver) -> None:
    for opcode, body in ((1, VERSION), (3, ALL_CAPS)):
        driver.send(opcode, body)
        reply = driver.receive()
        assert reply is not None
        assert (reply.opcode, reply.status) == (opcode, 0)


def test_bar0_is_announced_whole(shared: Bench) -> None:
    region = shared.device.describe().regions[BAR0]
    assert region.areas == (MmapArea(0, 0x20000),)
    assert region.fd is not None
    assert os.fstat(region.fd).st_size == 0x20000


def test_registers_begin_with_their_reset_values(bar: StoreBar) -> None:
    assert bar.read32(regs.VFGEN_RSTAT.offset) == 2
    assert sum(bytes(bar.memory)) == 2


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.name)
def test_every_driver_negotiates_by_stores_alone(
    shared: Bench, bar: StoreBar, habit: Habit
) -> None:
    driver = opened(shared, bar, habit)
    negotiate(driver)
    assert bar.read32(regs.ATQH1.offset) == 2
    assert bar.read32(regs.ARQH1.offset) == 3  # two replies and a link event
    assert bar.read32(regs.VFINT_ICR01.offset) == 1 << 30


def test_reset_by_message_clears_what_is_mapped(shared: Bench, bar: StoreBar) -> None:
    driver = opened(shared, bar, HABITS[0])
    negotiate(driver)
    bar.store(regs.VFQF_HKEY.offset, 0x1234)
    driver.queue(2)
    bar.write32(regs.ATQT1.offset, 3)
    assert bar.read32(regs.ARQLEN1.offset) == bar.read32(regs.ATQLEN1.offset) == 0
    assert bar.read32(regs.VFQF_HKEY.offset) == 0
    assert bar.read32(regs.VFGEN_RSTAT.offset) == 2


def test_stores_before_a_reset_count_for_nothing_after_it(shared: Bench, bar: StoreBar) -> None:
    opened(shared, bar, HABITS[0])
    bar.store(regs.ATQT1.offset, 7)
    shared.device.reset(ResetReason.CLIENT)
    assert bar.read32(regs.ATQT1.offset) == 0
    bar.look()
    assert shared.device.adminq_faults.bad_ring == 0


def test_a_reset_by_the_last_command_ends_the_look(shared: Bench, bar: StoreBar) -> None:
    """ARQT gives back the notice's buffer, which resets; the ATQT seen with it is of before."""
    driver = opened(shared, bar, HABITS[0])
    negotiate(driver)
    assert driver.receive() is not None
    shared.device.reset_by_host()
    bar.store(regs.ATQT1.offset, 9)
    assert driver.receive() is not None
    assert bar.read32(regs.ARQLEN1.offset) & AqLen.ENABLE == 0
    assert bar.read32(regs.ATQT1.offset) == 0


def test_read_only_register_is_put_right(bar: StoreBar) -> None:
    bar.store(regs.VFINT_ICR01.offset, 0xFFFF_FFFF)
    bar.look()
    assert bar.read32(regs.VFINT_ICR01.offset) == 0


def test_registers_nobody_acts_on_are_seen_by_a_read_message(shared: Bench, bar: StoreBar) -> None:
    bar.store(regs.VFQF_HLUT.offset, 0x0302_0100)
    assert shared.read32(regs.VFQF_HLUT.offset) == 0x0302_0100


def test_write_by_message_is_shown(shared: Bench, bar: StoreBar) -> None:
    shared.write32(regs.ARQBAL1.offset, 0x1000)
    assert bar.read32(regs.ARQBAL1.offset) == 0x1000


def test_ring_set_up_anew_between_two_looks_is_served(shared: Bench, bar: StoreBar) -> None:
    """VPP avf opens its queues twice without disabling them; its tail is 1 both times."""
    driver = opened(shared, bar, VPP_AVF)
    driver.send(1, VERSION)
    assert bar.read32(regs.ATQT1.offset) == 1
    second = VfDriver(shared.device.emu.mem, bar, VPP_AVF, base=0x30_0000)
    bar.write32 = bar.store  # type: ignore[method-assign]
    second.open()
    second.queue(1, VERSION)
    bar.store(regs.ATQT1.offset, 1)

    bar.look()
    deadline = time.monotonic() + DEADLINE_S
    while (reply := second.receive()) is None:
        assert time.monotonic() < deadline
        shared.loop.run_once(0.05)
    assert (reply.opcode, reply.status) == (1, 0)


@pytest.mark.parametrize("seed", range(20))
def test_scribbled_registers_do_no_harm(shared: Bench, bar: StoreBar, seed: int) -> None:
    """Whatever stands in BAR0: no exception, and a reset brings everything back."""
    rng = random.Random(seed)
    driver = opened(shared, bar, HABITS[0])
    negotiate(driver)
    offsets = [register.offset for register in regs.REGISTERS.values()]
    values = (0, 1, 31, 32, 1023, 1024, 1 << 31 | 32, 1 << 31, 0xFFFF_FFFF, driver.atq, driver.arq)
    for _ in range(200):
        for _ in range(rng.randrange(1, 6)):
            offset = rng.choice(offsets) if rng.random() < 0.9 else rng.randrange(0, 0x20000, 4)
            bar.store(offset, rng.choice((*values, rng.getrandbits(32))))
        bar.look()
    shared.loop.run_once(0.01)
    shared.device.reset(ResetReason.CLIENT)
    shared.bus_master()
    driver.open()
    negotiate(driver)
