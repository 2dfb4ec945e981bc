"""A driver's bring-up over a real socket: messages, queues, frames, link event, resets."""

import mmap
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emuiavf.datapath.engine import Engine
from emuiavf.emudev import registry, vdev
from emuiavf.emudev.info import DeviceConf
from emuiavf.iavf import regs
from emuiavf.iavf.device import IavfDevice
from emuiavf.loop import Loop
from emuiavf.vfio_user.client import Client, eventfds
from emuiavf.vfio_user.server import Server
from tests.fakes.vf_driver import LINUX, ClientBar, Received, VfDriver

MAC = bytes.fromhex("525400123456")
RAM_SIZE = 16 << 20
DEADLINE_S = 5.0
BAR0, CONFIG = 0, 7

TX_RING, RX_RING, TX_BUFFER, RX_BUFFERS = 0x80_0000, 0x81_0000, 0x82_0000, 0x83_0000
RING_LEN = 64
FLAGS = (0, 1, 0, 0)  # crc_disable, rxdid, flags, padding


def wait_for(what: str, ready: Callable[[], Any]) -> Any:
    """The first true value of `ready()`."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        value = ready()
        if value:
            return value
        os.sched_yield()
    raise AssertionError(f"{what} did not happen in {DEADLINE_S} s")


class Ram:
    """Guest memory: a memfd that is handed to the device."""

    def __init__(self, size: int = RAM_SIZE) -> None:
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)

    def read(self, iova: int, size: int) -> bytes:
        return self.map[iova : iova + size]

    def write(self, iova: int, data: bytes) -> None:
        self.map[iova : iova + len(data)] = data

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


class Backend:
    """One device looped back to itself, served in a thread."""

    def __init__(self, path: Path, options: str = "") -> None:
        self.loop = Loop()
        self.engine = Engine(workers=1)
        args = vdev.parse(f"emu_iavf0,mac={MAC.hex(':')}{options}")
        model = registry.find_model(args.driver)
        assert model.attach is not None
        self.device: IavfDevice = model.create(
            args.name, vdev.resolve(args, model.options), self.loop
        )  # type: ignore[assignment]
        self.device.emu.configure(DeviceConf())
        self.data_path = model.attach(self.device, self.engine)
        self.engine.connect(self.data_path.endpoint)
        self.device.emu.start()
        self.server = Server(self.loop, self.device, path)
        self.engine.start()
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.loop.stop()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        self.server.close()
        self.device.emu.stop()
        self.data_path.close()
        self.device.emu.close()
        registry.release(self.device.emu)
        self.engine.stop()
        self.loop.close()


class Guest:
    """A client with memory, eventfds and a driver's admin queues."""

    def __init__(self, path: Path) -> None:
        self.ram = Ram()
        self.client = Client(path)
        self.client.dma_map(0, RAM_SIZE, self.ram.fd)
        self.irqs = eventfds(3)
        self.client.set_eventfds(self.irqs)
        self.client.region_write(CONFIG, 4, b"\x06\x00")
        self.driver = VfDriver(self.ram, ClientBar(self.client), LINUX)

    def close(self) -> None:
        self.client.close()
        for fd in self.irqs:
            os.close(fd)
        self.ram.close()

    def read32(self, offset: int) -> int:
        return self.client.read32(BAR0, offset)

    def write32(self, offset: int, value: int) -> None:
        self.client.write32(BAR0, offset, value)

    def rpc(self, opcode: int, body: bytes = b"") -> Received:
        self.driver.send(opcode, body)
        reply = self.driver.receive()
        assert reply is not None, f"no reply to {opcode}"
        assert reply.opcode == opcode
        return reply

    def negotiate(self) -> Received:
        """From nothing to GET_VF_RESOURCES, as Linux does it."""
        self.driver.open()
        assert self.rpc(1, struct.pack("<II", 1, 1)).body == struct.pack("<II", 1, 1)
        reply = self.rpc(3, struct.pack("<I", 0xFFFF_FFFF))
        assert reply.status == 0
        return reply

    def link_event(self) -> Received:
        event = self.driver.receive()
        assert event is not None
        assert event.opcode == 17
        return event

    def configure_queue(self) -> Received:
        """Fill the Rx ring and lay queue pair 0 down."""
        for slot in range(RING_LEN):
            buffer = struct.pack("<QQQQ", RX_BUFFERS + slot * 2048, 0, 0, 0)
            self.ram.write(RX_RING + slot * 32, buffer)
        self.write32(regs.QRX_TAIL1.at(0), RING_LEN - 1)
        tx = struct.pack("<HHHHQQ", 1, 0, RING_LEN, 0, TX_RING, 0)
        rx = struct.pack("<HHIHHIIBBBBQiI", 1, 0, RING_LEN, 0, 0, 2048, 1534, *FLAGS, RX_RING, 0, 0)
        return self.rpc(6, struct.pack("<HHI", 1, 1, 0) + tx + rx)

    def enable_queue(self) -> Received:
        return self.rpc(8, struct.pack("<HHII", 1, 0, 1, 1))

    def start_queue(self) -> None:
        """Queue pair 0 on vector 1, filled, enabled and armed; the link event is read."""
        assert self.configure_queue().status == 0
        assert self.rpc(7, struct.pack("<HHHHHHH", 1, 1, 1, 1, 1, 0, 1)).status == 0
        assert self.enable_queue().status == 0
        self.link_event()
        self.write32(regs.VFINT_DYN_CTLN1.at(0), 1)

    def transmit(self, slot: int, frame: bytes, buffer: int = TX_BUFFER) -> None:
        """One data descriptor with EOP and RS; `buffer` elsewhere keeps what is there."""
        self.ram.write(TX_BUFFER, frame)
        command = 0x30 | len(frame) << 34
        self.ram.write(TX_RING + slot * 16, struct.pack("<QQ", buffer, command))
        self.write32(regs.QTX_TAIL1.at(0), slot + 1)

    def rx_status(self, slot: int) -> int:
        return struct.unpack("<Q", self.ram.read(RX_RING + slot * 32 + 8, 8))[0]


@pytest.fixture(params=["mapped", "trap", "shared"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = Backend(tmp_path / "vf.sock", f",doorbell={request.param}")
    yield made
    made.close()


@pytest.fixture
def guest(backend: Backend, tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path / "vf.sock")
    yield made
    made.close()


def frame_to(destination: bytes, size: int = 60) -> bytes:
    return (destination + MAC + b"\x88\xb5").ljust(size, b"\xa5")


def test_resources_name_the_device_as_it_is(guest: Guest) -> None:
    reply = guest.negotiate()
    vsis, pairs, vectors = struct.unpack_from("<HHH", reply.body)
    assert (vsis, pairs, vectors) == (1, 4, 17)
    assert reply.body[30:36] == MAC
    assert guest.client.irq_info(2).count == vectors


def test_link_event_follows_the_answers(guest: Guest) -> None:
    """Traps 1 to 4."""
    guest.negotiate()
    event = guest.link_event()
    assert len(event.body) == 16
    assert struct.unpack_from("<i", event.body) == (1,)
    assert guest.driver.receive() is None


def test_frame_to_oneself_is_received_and_announced(guest: Guest) -> None:
    guest.negotiate()
    guest.link_event()
    guest.start_queue()
    frame = frame_to(MAC)

    guest.transmit(0, frame)

    wait_for("the writeback", lambda: guest.rx_status(0) & 1)
    assert guest.rx_status(0) >> 38 & 0x3FFF == len(frame)
    assert guest.ram.read(RX_BUFFERS, len(frame)) == frame
    readable, _, _ = select.select([guest.irqs[1]], [], [], DEADLINE_S)
    assert readable == [guest.irqs[1]]
    stats = guest.rpc(15, struct.pack("<HHII", 1, 0, 0, 0))
    assert len(stats.body) == 96
    assert struct.unpack_from("<QQ", stats.body) == (len(frame) + 4, 1)


@pytest.mark.trap(29)
def test_event_while_disarmed_is_announced_at_the_arming(guest: Guest) -> None:
    """Trap 29."""
    guest.negotiate()
    guest.link_event()
    guest.start_queue()
    guest.write32(regs.VFINT_DYN_CTLN1.at(0), 0)
    guest.transmit(0, frame_to(MAC))
    wait_for("the writeback", lambda: guest.rx_status(0) & 1)
    assert select.select([guest.irqs[1]], [], [], 0.02)[0] == []
    guest.write32(regs.VFINT_DYN_CTLN1.at(0), 0x19)
    assert select.select([guest.irqs[1]], [], [], DEADLINE_S)[0] == [guest.irqs[1]]


@pytest.mark.trap(30)
def test_software_trigger_raises_an_idle_vector(guest: Guest) -> None:
    """Trap 30: Linux forces an interrupt when it believes that one was lost."""
    guest.negotiate()
    guest.link_event()
    guest.start_queue()
    guest.write32(regs.VFINT_DYN_CTLN1.at(0), 0x0100_001D)
    assert select.select([guest.irqs[1]], [], [], DEADLINE_S)[0] == [guest.irqs[1]]


def test_admin_queue_event_fires_vector_zero(guest: Guest) -> None:
    guest.driver.open()
    guest.write32(regs.VFINT_DYN_CTL01.offset, 0x19)
    guest.write32(regs.VFINT_ICR0_ENA1.offset, 1 << 30)
    guest.rpc(1, struct.pack("<II", 1, 1))
    assert select.select([guest.irqs[0]], [], [], DEADLINE_S)[0] == [guest.irqs[0]]
    assert guest.read32(regs.VFINT_DYN_CTL01.offset) & 1 == 0


@pytest.mark.trap(22)
def test_tails_when_a_queue_is_configured_anew(guest: Guest) -> None:
    """Trap 22: QTX_TAIL starts at 0, QRX_TAIL is kept."""
    guest.negotiate()
    guest.link_event()
    guest.start_queue()
    guest.transmit(0, frame_to(MAC))
    wait_for("the writeback", lambda: guest.rx_status(0) & 1)
    assert guest.rpc(9, struct.pack("<HHII", 1, 0, 1, 1)).status == 0
    assert guest.configure_queue().status == 0
    assert guest.read32(regs.QTX_TAIL1.at(0)) == 0
    assert guest.read32(regs.QRX_TAIL1.at(0)) == RING_LEN - 1


def test_reset_clears_what_the_data_path_keeps(guest: Guest) -> None:
    guest.negotiate()
    for offset in (regs.VFINT_ITR01.at(0), regs.VFINT_DYN_CTL01.offset, regs.itrn1(1, 2)):
        guest.write32(offset, 0x2)
    guest.driver.send(2)
    for offset in (regs.VFINT_ITR01.at(0), regs.VFINT_DYN_CTL01.offset, regs.itrn1(1, 2)):
        assert guest.read32(offset) == 0


def test_reset_vf_clears_the_admin_queues_and_ends_active(guest: Guest) -> None:
    guest.negotiate()
    guest.link_event()
    guest.start_queue()
    index = guest.driver.send(2)
    assert guest.driver.completed(index).flags & 3 == 3
    assert guest.read32(regs.ARQLEN1.offset) == 0
    assert guest.read32(regs.ATQLEN1.offset) == 0
    assert guest.read32(regs.VFGEN_RSTAT.offset) == 2
    assert guest.read32(regs.QRX_TAIL1.at(0)) == 0

    guest.driver.open()
    assert guest.rpc(3, struct.pack("<I", 1)).status == 0
    guest.link_event()
    guest.start_queue()
    guest.transmit(0, frame_to(MAC))
    wait_for("the writeback", lambda: guest.rx_status(0) & 1)


def test_request_queues_announces_and_then_resets(guest: Guest) -> None:
    guest.negotiate()
    guest.link_event()
    guest.driver.send(29, struct.pack("<H", 2))
    event = guest.link_event()
    assert struct.unpack_from("<i", event.body) == (2,)
    wait_for("the reset", lambda: guest.read32(regs.VFGEN_RSTAT.offset) == 2)
    assert guest.read32(regs.ARQLEN1.offset) == 0
    guest.driver.open()
    assert struct.unpack_from("<HH", guest.rpc(3, struct.pack("<I", 1)).body) == (1, 2)


@pytest.mark.vfio_user("12.14.4")
def test_flr_stops_dma_until_bus_master_is_back(guest: Guest) -> None:
    guest.negotiate()
    guest.link_event()
    guest.start_queue()
    guest.client.region_write(CONFIG, 0xA9, b"\x80")
    assert guest.read32(regs.VFGEN_RSTAT.offset) == 2
    guest.driver.open()
    guest.driver.send(1, struct.pack("<II", 1, 1))
    assert guest.driver.receive() is None
    guest.client.region_write(CONFIG, 4, b"\x06\x00")
    reply = guest.driver.receive()
    assert reply is not None
    assert reply.opcode == 1


@pytest.mark.vfio_user("11.3")
def test_next_client_finds_a_new_device(backend: Backend, tmp_path: Path) -> None:
    first = Guest(tmp_path / "vf.sock")
    first.negotiate()
    first.link_event()
    first.start_queue()
    first.close()
    second = Guest(tmp_path / "vf.sock")
    assert second.read32(regs.ATQLEN1.offset) == 0
    second.negotiate()
    second.link_event()
    second.start_queue()
    second.transmit(0, frame_to(MAC))
    wait_for("the writeback", lambda: second.rx_status(0) & 1)
    second.close()


def test_vanished_memory_breaks_the_device_until_it_is_mapped_anew(
    guest: Guest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open(tmp_path / "shrinking", "w+b", buffering=0) as file:
        file.truncate(0x1000)
        guest.client.dma_map(RAM_SIZE, 0x1000, file.fileno())
        guest.negotiate()
        guest.link_event()
        guest.start_queue()
        file.truncate(0)
        guest.transmit(0, frame_to(MAC), buffer=RAM_SIZE)
        wait_for("the report", lambda: "broken: a page of the guest's memory" in caplog.text)

        assert guest.rpc(9, struct.pack("<HHII", 1, 0, 1, 1)).status == 0
        assert guest.configure_queue().status == 0
        assert guest.enable_queue().status == -5
        guest.client.dma_unmap(RAM_SIZE, 0x1000)
        file.truncate(0x1000)
        guest.client.dma_map(RAM_SIZE, 0x1000, file.fileno())
        assert guest.enable_queue().status == 0
        guest.link_event()
        guest.transmit(0, frame_to(MAC))
        wait_for("the writeback", lambda: guest.rx_status(0) & 1)


def test_memory_without_descriptor_is_reported_with_the_options_that_cure_it(
    guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    guest.client.dma_unmap(0, RAM_SIZE)
    guest.client.dma_map(0, 1 << 30)
    guest.client.dma_map(1 << 32, 1 << 30)
    lines = [r.getMessage() for r in caplog.records if "share=on" in r.getMessage()]
    assert len(lines) == 1
    assert "memory-backend-memfd" in lines[0]
    assert "-machine memory-backend=" in lines[0]
