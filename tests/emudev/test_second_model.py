"""A second device model on the same faces, driven by the client over a real socket."""

import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emuiavf.emudev import registry
from emuiavf.emudev.info import DeviceConf
from emuiavf.loop import Loop
from emuiavf.vfio_user.client import Client, IrqIndex, eventfds
from emuiavf.vfio_user.server import Server
from tests.fakes.scratch_device import BAR0, BAR2, CONFIG, FIRE, STORE_AT, ScratchDevice


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Client]:
    loop = Loop()
    made = ScratchDevice("emu_scratch0", {"fill": 0xAA}, loop)
    made.emu.configure(DeviceConf())
    made.emu.start()
    server = Server(loop, made, tmp_path / "scratch.sock", "emu_scratch0")
    thread = threading.Thread(target=loop.run)
    thread.start()
    with Client(tmp_path / "scratch.sock") as client:
        yield client
    loop.stop()
    thread.join()
    server.close()
    made.emu.stop()
    made.emu.close()
    registry.release(made.emu)
    loop.close()


def enable(device: Client) -> None:
    """Bus master and MSI-X on."""
    device.region_write(CONFIG, 4, b"\x06\x00")
    device.region_write(CONFIG, 0x72, b"\x00\x80")


def test_identity_through_the_client(device: Client) -> None:
    assert device.region_read(CONFIG, 0, 4) == b"\x34\x12\x78\x56"


@pytest.mark.vfio_user("12.5.6")
def test_bar_sizes_as_a_vmm_asks_for_them(device: Client) -> None:
    device.region_write(CONFIG, 0x10, b"\xff" * 24)
    sized = "0cf0ffff ffffffff 00f0ffff 00000000 00000000 00000000"
    assert device.region_read(CONFIG, 0x10, 24) == bytes.fromhex(sized)


def test_scratch_memory_holds_what_is_written(device: Client) -> None:
    device.region_write(BAR0, 0x123, b"hello")
    assert device.region_read(BAR0, 0x122, 7) == b"\xaahello\xaa"


def test_interrupt_reaches_the_clients_eventfd(device: Client) -> None:
    enable(device)
    fds = eventfds(1)
    device.set_eventfds(fds)
    device.write32(BAR0, FIRE, 1)
    assert os.eventfd_read(fds[0]) == 1
    os.close(fds[0])


def test_interrupt_while_masked_is_pending_until_unmasked(device: Client) -> None:
    fds = eventfds(1)
    device.set_eventfds(fds)
    device.write32(BAR0, FIRE, 1)
    pending = device.region_read(BAR2, 0x800, 1)
    early = select.select(fds, [], [], 0)[0]
    enable(device)
    assert (pending, early, os.eventfd_read(fds[0])) == (b"\x01", [], 1)
    assert device.region_read(BAR2, 0x800, 1) == b"\x00"
    os.close(fds[0])


def test_device_writes_guest_memory(device: Client) -> None:
    enable(device)
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4096)
    device.dma_map(0x10000, 4096, fd)
    device.region_write(BAR0, STORE_AT, (0x10008).to_bytes(8, "little"))
    assert os.pread(fd, 8, 8) == b"\xaa" * 8
    os.close(fd)


def test_flr_resets_the_function(device: Client) -> None:
    enable(device)
    device.write32(BAR0, 0, 0)
    device.region_write(CONFIG, 0xA8, b"\x00\x80")
    assert device.read32(BAR0, 0) == 0xAAAAAAAA
    assert device.region_read(CONFIG, 4, 2) == b"\x00\x00"


def test_client_reset_restores_the_page(device: Client) -> None:
    device.write32(BAR0, 0, 0)
    device.reset()
    assert device.read32(BAR0, 0) == 0xAAAAAAAA


def test_irq_counts(device: Client) -> None:
    assert (device.irq_info(IrqIndex.MSIX).count, device.irq_info(IrqIndex.INTX).count) == (1, 0)
