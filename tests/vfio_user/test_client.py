"""The client against the real server: what a user-space driver does."""

import errno
import mmap
import os
import socket

import pytest

from emuiavf.emudev.info import DmaProt, MemRegion, ResetReason
from emuiavf.errors import PeerError
from emuiavf.vfio_user import wire
from emuiavf.vfio_user.client import Client, Refused, close_fds, eventfds
from emuiavf.vfio_user.wire import Command, IrqIndex, RegionIndex
from tests.fakes.pci_function import AREAS, BAR0_SIZE, MSIX_VECTORS
from tests.vfio_user.conftest import Served


def test_version_is_the_smaller_minor(served: Served) -> None:
    with Client(served.path, minor=0) as client:
        assert client.version == (0, 0)
        assert client.capabilities.max_msg_fds == 16


def test_device_info_tells_what_the_function_has(served: Served) -> None:
    with Client(served.path) as client:
        assert client.device_info() == wire.DeviceInfo(16, 3, 9, 5)
        assert client.irq_info(IrqIndex.MSIX) == wire.IrqInfo(16, 1, 2, MSIX_VECTORS)


def test_region_info_brings_areas_and_a_descriptor(served: Served) -> None:
    with Client(served.path) as client:
        info = client.region_info(0)
        assert (info.size, info.areas, info.fd_offset) == (BAR0_SIZE, AREAS, 0)
        assert info.fd is not None
        assert client.region_info(0) is info


def test_region_info_of_absent_region_is_size_zero(served: Served) -> None:
    with Client(served.path) as client:
        info = client.region_info(1)
        assert (info.size, info.areas, info.fd) == (0, (), None)


def test_map_area_shares_memory_with_the_device(served: Served) -> None:
    with Client(served.path) as client, client.map_area(0, 1) as area:
        area[4:8] = b"bell"
        assert os.pread(served.ops.memfd, 4, 0x2004) == b"bell"


def test_map_area_outlives_the_client(served: Served) -> None:
    with Client(served.path) as client:
        area = client.map_area(0)
    area[0] = 7
    area.close()


@pytest.mark.parametrize(("region", "area"), [(0, 2), (0, -1), (3, 0)])
def test_map_area_that_does_not_exist_is_refused(served: Served, region: int, area: int) -> None:
    with Client(served.path) as client, pytest.raises(PeerError):
        client.map_area(region, area)


def test_registers_read_back(served: Served) -> None:
    with Client(served.path) as client:
        client.write32(3, 8, 0xDEADBEEF)
        assert client.read32(3, 8) == 0xDEADBEEF
        assert client.region_read(RegionIndex.CONFIG, 0, 4) == b"\x86\x80\x89\x18"


def test_posted_write_is_seen_by_the_next_read(served: Served) -> None:
    with Client(served.path) as client:
        client.write32(3, 8, 5, posted=True)
        assert client.read32(3, 8) == 5


def test_dma_map_and_unmap_reach_the_device(served: Served) -> None:
    memory = os.memfd_create("guest")
    os.ftruncate(memory, 0x2000)
    with Client(served.path) as client:
        client.dma_map(0x100000, 0x1000, memory, 0x1000, DmaProt.READ)
        client.dma_map(0x200000, 0x1000)
        client.dma_unmap(0x100000, 0x1000)
        client.dma_unmap_all()
    os.close(memory)
    read_only = MemRegion(0x100000, 0x1000, DmaProt.READ, True)
    unreachable = MemRegion(0x200000, 0x1000, DmaProt.READ | DmaProt.WRITE, False)
    assert served.ops.calls[1:5] == [
        ("dma_map", read_only, True, 0x1000),
        ("dma_map", unreachable, False, 0),
        ("dma_unmap", 0x100000, 0x1000),
        ("dma_unmap_all",),
    ]


def test_eventfds_of_all_vectors_are_set_in_batches_and_signalled(served: Served) -> None:
    fds = eventfds(MSIX_VECTORS)
    with Client(served.path) as client:
        client.set_eventfds(fds)
        client.trigger_irqs(2, start=20)
        assert [os.eventfd_read(fds[20]), os.eventfd_read(fds[21])] == [1, 1]
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fds[19])
        client.clear_eventfds(3, start=4)
        client.disable_irqs()
    close_fds(fds)
    calls = [call for call in served.ops.calls if call[0] == "set_irq_eventfds"]
    assert [(call[2], len(call[3])) for call in calls] == [(0, 16), (16, 16), (4, 3)]


def test_reset_reaches_the_device(served: Served) -> None:
    with Client(served.path) as client:
        client.reset()
    assert ("reset", ResetReason.CLIENT) in served.ops.calls


def test_error_reply_names_command_and_errno(served: Served) -> None:
    served.ops.refuse["dma_unmap"] = PeerError("nothing there", errno.ENOENT)
    with Client(served.path) as client, pytest.raises(Refused, match="DMA_UNMAP: No such") as info:
        client.dma_unmap(0x1000, 0x1000)
    assert (info.value.command, info.value.errno) == (Command.DMA_UNMAP, errno.ENOENT)


def test_unknown_command_is_refused(served: Served) -> None:
    with Client(served.path) as client, pytest.raises(Refused, match="command 99") as info:
        client.request(99, b"1234")
    assert info.value.errno == errno.EINVAL


def test_answers_may_be_fetched_in_any_order(served: Served) -> None:
    with Client(served.path) as client:
        first = client.submit(Command.REGION_READ, wire.REGION_ACCESS.pack(0, 7, 2))
        second = client.submit(Command.REGION_READ, wire.REGION_ACCESS.pack(2, 7, 2))
        assert second.wait().payload[16:] == b"\x89\x18"
        assert first.wait().payload[16:] == b"\x86\x80"


@pytest.mark.parametrize("count", [5000])
def test_pipeline_longer_than_both_socket_buffers_does_not_stall(
    served: Served, count: int
) -> None:
    with Client(served.path) as client:
        waiting = [client.submit_dma_map(i << 12, 4096) for i in range(count)]
        assert [pending.wait().payload for pending in waiting] == [b""] * count
    assert len([call for call in served.ops.calls if call[0] == "dma_map"]) == count


def test_large_data_passes_in_both_directions(served: Served) -> None:
    data = os.urandom(BAR0_SIZE)
    with Client(served.path) as client:
        client.region_write(0, 0, data)
        assert client.region_read(0, 0, BAR0_SIZE) == data


def test_server_that_is_silent_times_out() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(TimeoutError):
        Client(ours, timeout_s=0.01)


def test_server_that_does_not_read_times_out() -> None:
    ours, theirs = socket.socketpair()
    client = Client(ours, timeout_s=0.01, negotiate=False)
    with theirs, client, pytest.raises(TimeoutError):
        client.post(Command.REGION_WRITE, bytes(1 << 20))


def test_server_that_leaves_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(ConnectionError):
        Client(ours)


def test_late_answer_is_dropped_with_its_descriptor() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Client(ours, timeout_s=0.01, negotiate=False) as client:
        with pytest.raises(TimeoutError):
            client.request(Command.DEVICE_RESET)
        late = bytes.fromhex("00000d00100000000100000000000000")
        prompt = bytes.fromhex("01000d00100000000100000000000000")
        socket.send_fds(theirs, [late], [theirs.fileno()])
        theirs.sendall(prompt)
        assert client.request(Command.DEVICE_RESET).payload == b""


def test_command_from_the_server_is_refused_and_the_answer_still_found() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Client(ours, negotiate=False) as client:
        theirs.sendall(bytes.fromhex("77000b0020000000" + "00" * 8 + "00" * 16))
        theirs.sendall(bytes.fromhex("00000d00100000000100000000000000"))
        client.reset()
        assert theirs.recv(16).hex() == "00000d00100000000000000000000000"
        assert theirs.recv(16).hex() == "77000b00100000002100000016000000"


def test_area_is_mapped_as_announced_when_it_is_the_whole_region() -> None:
    ours, theirs = socket.socketpair()
    memory = os.memfd_create("bar")
    os.ftruncate(memory, mmap.PAGESIZE)
    with theirs, Client(ours, negotiate=False) as client:
        head = wire.RegionInfo(32, 7, 0, 0, mmap.PAGESIZE, 0).encode()
        reply = bytes.fromhex("00000500300000000100000000000000") + head
        socket.send_fds(theirs, [reply], [memory])
        with client.map_area(0) as area:
            assert len(area) == mmap.PAGESIZE
    os.close(memory)
