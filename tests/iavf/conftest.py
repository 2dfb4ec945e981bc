"""A device without a data path behind it, and proof that no test leaks a descriptor."""

import gc
import os
import struct
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from emuiavf.emudev import registry, vdev
from emuiavf.emudev.info import DeviceConf, DmaProt, MemRegion
from emuiavf.iavf.device import IavfDevice
from emuiavf.iavf.options import OPTIONS
from emuiavf.loop import Loop
from emuiavf.policy import VfPolicy
from tests.fakes.sink import RecordingSink
from tests.fakes.vf_driver import LINUX, CallbackBar, Habit, VfDriver

MAC = bytes.fromhex("525400123456")
RAM_SIZE = 8 << 20
BAR0, BAR3, CONFIG = 0, 3, 7
ALL_CAPS = struct.pack("<I", 0xFFFF_FFFF)
VERSION, GET_VF_RESOURCES, EVENT = 1, 3, 17
LINK_CHANGE, RESET_IMPENDING = 1, 2


class FakeControl:
    """The data path's vectors as plain numbers; a raised vector fires when it is armed."""

    def __init__(self) -> None:
        self.dyn_ctl: dict[int, int] = {}
        self.itr: dict[tuple[int, int], int] = {}
        self.raised: list[int] = []
        self.wakes = 0
        self.faults: list[tuple[str, int, str]] = []
        self.tails_forgotten = 0
        self.policies: list[VfPolicy] = []
        self.interrupts_left = self.corruptions_left = self.repeated = 0
        self.interrupts_missing = self.tx_hangs = False

    @property
    def sabotage(self) -> Self:
        return self

    def set_policy(self, policy: VfPolicy) -> None:
        self.policies.append(policy)

    def lose_interrupts(self, count: int) -> None:
        self.interrupts_left = count

    def repeat_interrupts(self) -> None:
        self.repeated += 1
        self.interrupts_missing = False

    def corrupt_received(self, count: int) -> None:
        self.corruptions_left = count

    def hang_tx(self, hang: bool) -> None:
        self.tx_hangs = hang

    def write_dyn_ctl(self, vector: int, value: int) -> None:
        self.dyn_ctl[vector] = value

    def read_dyn_ctl(self, vector: int) -> int:
        return self.dyn_ctl.get(vector, 0)

    def write_itr(self, index: int, vector: int, value: int) -> None:
        self.itr[index, vector] = value

    def read_itr(self, index: int, vector: int) -> int:
        return self.itr.get((index, vector), 0)

    def raise_vector(self, vector: int) -> None:
        self.raised.append(vector)

    def wake(self) -> None:
        self.wakes += 1

    def take_faults(self) -> list[tuple[str, int, str]]:
        taken, self.faults = self.faults, []
        return taken

    def flow_hits(self) -> dict[int, int]:
        return {3: 7}

    def forget_tx_tails(self) -> None:
        self.tails_forgotten += 1


class Bench:
    """A device, what it tells its data path, and a guest that talks to it without a socket."""

    def __init__(self, options: str = "") -> None:
        self.loop = Loop()
        args = vdev.parse(f"emu_iavf7,mac={MAC.hex(':')}{options}")
        self.device = IavfDevice(args.name, vdev.resolve(args, OPTIONS), self.loop)
        self.sink = RecordingSink()
        self.control = FakeControl()
        self.device.connect(self.control)
        self.device.emu.configure(DeviceConf())
        self.device.emu.subscribe(self.sink)
        self.device.emu.start()
        self.device.attached()
        self.bar = CallbackBar(
            lambda offset, count: self.device.region_read(BAR0, offset, count),
            lambda offset, data: self.device.region_write(BAR0, offset, data),
        )
        self.ram = os.memfd_create("guest", os.MFD_CLOEXEC)

    def close(self) -> None:
        self.device.detached()
        self.device.emu.stop()
        self.device.emu.close()
        registry.release(self.device.emu)
        self.loop.close()
        os.close(self.ram)

    def map(self, iova: int = 0, size: int = RAM_SIZE, fd: int | None = None) -> None:
        """Map guest memory: all of `ram`, or `fd`."""
        if fd is None:
            os.ftruncate(self.ram, size)
            fd = self.ram
        region = MemRegion(iova, size, DmaProt.READ | DmaProt.WRITE, True)
        self.device.dma_map(region, os.dup(fd), 0)

    def bus_master(self, enabled: bool = True) -> None:
        self.device.region_write(CONFIG, 4, b"\x06\x00" if enabled else b"\x02\x00")

    def driver(self, habit: Habit = LINUX) -> VfDriver:
        """Memory mapped, bus master on, admin queues open."""
        self.map()
        self.bus_master()
        driver = VfDriver(self.device.emu.mem, self.bar, habit)
        driver.open()
        return driver

    def read32(self, offset: int) -> int:
        return self.bar.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        self.bar.write32(offset, value)


def resources(driver: VfDriver) -> bytes:
    driver.send(GET_VF_RESOURCES, ALL_CAPS)
    body, event = driver.receive(), driver.receive()
    assert body is not None
    assert event is not None
    return body.body


def events(driver: VfDriver) -> list[bytes]:
    found = []
    while message := driver.receive():
        assert message.opcode == EVENT
        found.append(message.body)
    return found


def again(bench: Bench, driver: VfDriver) -> bytes:
    """What a driver does when it has read RESET_IMPENDING; returns its new resources."""
    notice = driver.receive()
    assert notice is not None
    assert (notice.opcode, *struct.unpack_from("<i", notice.body)) == (EVENT, RESET_IMPENDING)
    while bench.device.in_reset:
        bench.loop.run_once(1)
    driver.open()
    return resources(driver)


@pytest.fixture
def no_fd_leaks() -> Iterator[None]:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def make_bench() -> Iterator[Callable[[str], Bench]]:
    made: list[Bench] = []

    def make(options: str = "") -> Bench:
        made.append(Bench(options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[[str], Bench]) -> Bench:
    return make_bench("")


@pytest.fixture
def driver(bench: Bench) -> VfDriver:
    """A driver that knows its resources."""
    driver = bench.driver()
    driver.send(VERSION, struct.pack("<II", 1, 1))
    driver.receive()
    resources(driver)
    return driver
