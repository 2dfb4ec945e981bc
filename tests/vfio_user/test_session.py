"""Every command but VERSION and SET_IRQS: what is answered, and what reaches the device."""

import errno
import os
import struct
from dataclasses import replace

import pytest

from emuiavf.emudev.info import DmaProt, MemRegion, MmapArea, RegionInfo, ResetReason
from emuiavf.errors import PeerError
from emuiavf.vfio_user.session import RULES
from emuiavf.vfio_user.wire import Command
from tests.fakes.pci_function import CONFIG_SIZE, PciFunction
from tests.vfio_user.exchange import HEADER, Exchange, frame

RW = DmaProt.READ | DmaProt.WRITE
# A payload of each command that the device executes.
GOOD = {
    Command.DMA_MAP: struct.pack("<IIQQQ", 32, 3, 0, 0x1000, 0x1000),
    Command.DMA_UNMAP: struct.pack("<IIQQ", 24, 0, 0x1000, 0x1000),
    Command.DEVICE_GET_INFO: struct.pack("<IIII", 16, 0, 0, 0),
    Command.DEVICE_GET_REGION_INFO: struct.pack("<IIIIQQ", 32, 0, 3, 0, 0, 0),
    Command.DEVICE_GET_REGION_IO_FDS: struct.pack("<IIII", 16, 0, 0, 0),
    Command.DEVICE_GET_IRQ_INFO: struct.pack("<IIII", 16, 0, 2, 0),
    Command.DEVICE_SET_IRQS: struct.pack("<IIIII", 20, 0x21, 2, 0, 0),
    Command.REGION_READ: struct.pack("<QII", 0, 7, 4),
    Command.REGION_WRITE: struct.pack("<QII", 0, 7, 4) + b"data",
    Command.DEVICE_RESET: b"",
}
REFUSED = sorted(set(Command) - set(GOOD))


@pytest.fixture
def exchange(ops: PciFunction) -> Exchange:
    return Exchange(ops)


# All commands


def test_every_command_has_a_row() -> None:
    assert set(RULES) == set(Command)


@pytest.mark.parametrize("command", GOOD)
def test_posted_command_is_executed_and_never_answered(
    exchange: Exchange, command: Command
) -> None:
    assert exchange.send(frame(command, GOOD[command], flags=0x10)) is None


@pytest.mark.parametrize("command", [*Command, 14, 19, 0, 0xFFFF])
@pytest.mark.vfio_user("12.21.2")
def test_posted_command_that_fails_is_never_answered(exchange: Exchange, command: int) -> None:
    assert exchange.send(frame(command, b"\xff", flags=0x10)) is None or command == 13


@pytest.mark.parametrize("command", sorted(set(GOOD) - {Command.DEVICE_RESET}))
@pytest.mark.vfio_user("12.2.5", "12.3.1", "12.4.1", "12.5.1", "12.8.1", "12.11.1")
def test_payload_shorter_than_the_fixed_part_is_refused(
    exchange: Exchange, ops: PciFunction, command: Command
) -> None:
    errnos = {exchange.errno(command, GOOD[command][:n]) for n in range(16)}
    assert errnos == {errno.EINVAL}
    assert ops.calls == []


@pytest.mark.parametrize("command", [*REFUSED, 0, 14, 19, 999, 0xFFFF])
@pytest.mark.parametrize("payload", [b"", bytes(8), bytes(64)])
@pytest.mark.vfio_user(
    "12.2.4",
    "12.12.1",
    "12.12.2",
    "12.12.3",
    "12.12.4",
    "12.12.5",
    "12.12.6",
    "12.12.7",
    "12.12.8",
    "12.13.1",
    "12.13.2",
    "12.13.3",
    "12.13.4",
    "12.13.5",
    "12.13.6",
    "12.13.7",
    "12.13.8",
    "12.13.9",
    "12.13.10",
    "12.18.2",
    "12.18.3",
)
def test_command_that_is_not_served_is_refused(
    exchange: Exchange, ops: PciFunction, command: int, payload: bytes
) -> None:
    assert exchange.errno(command, payload) == errno.EINVAL
    assert ops.calls == []


@pytest.mark.parametrize("kind", [1, 2, 15, 0x21])
@pytest.mark.vfio_user("12.2.3")
def test_message_that_is_no_command_is_refused(
    exchange: Exchange, ops: PciFunction, kind: int
) -> None:
    reply = exchange.send(frame(Command.REGION_READ, GOOD[Command.REGION_READ], flags=kind))
    assert reply is not None
    assert HEADER.unpack(reply.data) == (0x5A, 9, 16, 0x21, errno.EINVAL)
    assert ops.calls == []


@pytest.mark.parametrize("command", sorted(set(GOOD) - {Command.DMA_MAP}))
@pytest.mark.vfio_user("12.2.6")
def test_unexpected_descriptors_are_closed(exchange: Exchange, command: Command) -> None:
    # The leak check of every test counts them.
    exchange.send(frame(command, GOOD[command]), os.pipe())


@pytest.mark.parametrize("msg_id", [0, 1, 0xFFFF])
def test_reply_repeats_the_id_even_when_it_is_used_again(exchange: Exchange, msg_id: int) -> None:
    message = frame(Command.DEVICE_RESET, msg_id=msg_id)
    replies = [exchange.send(message), exchange.send(message)]
    expected = HEADER.pack(msg_id, Command.DEVICE_RESET, 16, 1, 0)
    assert [reply.data for reply in replies if reply] == [expected, expected]


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (Command.DMA_MAP, 16),
        (Command.DMA_UNMAP, 40),
        (Command.DEVICE_GET_INFO, 32),
        (Command.DEVICE_GET_REGION_INFO, 48),
        (Command.DEVICE_GET_IRQ_INFO, 32),
        (Command.DEVICE_SET_IRQS, 16),
        (Command.REGION_READ, 36),
        (Command.REGION_WRITE, 32),
        (Command.DEVICE_RESET, 16),
    ],
)
@pytest.mark.vfio_user("12.21.3")
def test_reply_has_the_size_that_every_client_expects(
    exchange: Exchange, command: Command, size: int
) -> None:
    assert 16 + len(exchange.ok(command, GOOD[command])) == size


@pytest.mark.vfio_user("12.2.7")
def test_close_tells_the_device_exactly_once(exchange: Exchange, ops: PciFunction) -> None:
    exchange.session.close()
    exchange.session.close()
    assert ops.calls == [("detached",)]


def test_close_before_version_tells_the_device_nothing(ops: PciFunction) -> None:
    Exchange(ops, negotiated=False).session.close()
    assert ops.calls == []


# DMA_MAP


def dma_map(
    flags: int = 3, offset: int = 0, address: int = 0, size: int = 0x1000, argsz: int = 32
) -> bytes:
    return struct.pack("<IIQQQ", argsz, flags, offset, address, size)


@pytest.mark.vfio_user("12.10.3")
def test_dma_map_hands_the_descriptor_over(exchange: Exchange, ops: PciFunction) -> None:
    body = dma_map(offset=0x2000, address=0xC0000000, size=0x8000, flags=1)
    assert exchange.ok(Command.DMA_MAP, body, [os.memfd_create("guest")]) == b""
    region = MemRegion(0xC0000000, 0x8000, DmaProt.READ, True)
    assert ops.calls == [("dma_map", region, True, 0x2000)]


@pytest.mark.vfio_user("12.21.6")
def test_dma_map_without_descriptor_is_accepted(exchange: Exchange, ops: PciFunction) -> None:
    exchange.ok(Command.DMA_MAP, dma_map(address=0xFE000000))
    assert ops.maps == [MemRegion(0xFE000000, 0x1000, RW, False)]


@pytest.mark.parametrize("flags", [7, 0xB, 0xF])
def test_dma_map_flags_of_libvfio_user_need_a_descriptor(exchange: Exchange, flags: int) -> None:
    assert exchange.errno(Command.DMA_MAP, dma_map(flags)) == errno.EINVAL
    exchange.ok(Command.DMA_MAP, dma_map(flags), [os.memfd_create("guest")])


def test_dma_map_up_to_the_end_of_the_address_space(exchange: Exchange, ops: PciFunction) -> None:
    exchange.ok(Command.DMA_MAP, dma_map(address=(1 << 64) - 0x1000))
    assert len(ops.maps) == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (dma_map(argsz=31), errno.EINVAL),
        (dma_map(flags=0x13), errno.EINVAL),
        (dma_map(flags=0x80000003), errno.EINVAL),
        (dma_map(size=0), errno.EINVAL),
        (dma_map(address=(1 << 64) - 0x1000, size=0x1001), errno.EINVAL),
        (dma_map(size=(8 << 40) + 1), errno.ENOSPC),
    ],
)
@pytest.mark.vfio_user("12.2.6", "12.10.1")
def test_dma_map_that_is_wrong_is_refused_and_its_descriptor_closed(
    exchange: Exchange, ops: PciFunction, body: bytes, expected: int
) -> None:
    assert exchange.errno(Command.DMA_MAP, body, [os.memfd_create("guest")]) == expected
    assert ops.calls == []


def test_dma_map_with_two_descriptors_is_refused(exchange: Exchange, ops: PciFunction) -> None:
    assert exchange.errno(Command.DMA_MAP, dma_map(), os.pipe()) == errno.EINVAL
    assert ops.calls == []


def test_dma_map_whose_descriptor_was_lost_is_refused(exchange: Exchange, ops: PciFunction) -> None:
    reply = exchange.send(frame(Command.DMA_MAP, dma_map()), truncated=True)
    assert reply is not None
    assert HEADER.unpack(reply.data)[3] == 0x21
    assert ops.calls == []


@pytest.mark.vfio_user("12.14.2", "12.21.6")
def test_dma_map_refused_by_the_device_carries_its_errno(
    exchange: Exchange, ops: PciFunction
) -> None:
    ops.refuse["dma_map"] = PeerError("overlap", errno.EEXIST)
    fds = [os.memfd_create("guest")]
    assert exchange.errno(Command.DMA_MAP, dma_map(), fds) == errno.EEXIST
    assert not exchange.session.finished


def test_error_of_the_device_is_never_answered_as_zero(
    exchange: Exchange, ops: PciFunction
) -> None:
    ops.refuse["dma_map"] = PeerError("no number", 0)
    assert exchange.errno(Command.DMA_MAP, dma_map()) == errno.EINVAL


# DMA_UNMAP


def dma_unmap(flags: int = 0, address: int = 0, size: int = 0, argsz: int = 24) -> bytes:
    return struct.pack("<IIQQ", argsz, flags, address, size)


@pytest.mark.vfio_user("12.11.4")
def test_dma_unmap_echoes_the_request(exchange: Exchange, ops: PciFunction) -> None:
    body = dma_unmap(0, 0x1000, 0x2000)
    assert exchange.ok(Command.DMA_UNMAP, body) == body
    assert ops.calls == [("dma_unmap", 0x1000, 0x2000)]


def test_dma_unmap_with_room_for_a_bitmap_echoes_the_fixed_part(exchange: Exchange) -> None:
    body = dma_unmap(0, 0x1000, 0x2000, argsz=4096)
    assert exchange.ok(Command.DMA_UNMAP, body + bytes(16)) == body


def test_dma_unmap_of_half_the_address_space_passes(exchange: Exchange, ops: PciFunction) -> None:
    exchange.ok(Command.DMA_UNMAP, dma_unmap(0, 1 << 63, 1 << 63))
    assert ops.calls == [("dma_unmap", 1 << 63, 1 << 63)]


@pytest.mark.vfio_user("12.11.7")
def test_dma_unmap_all_drops_everything(exchange: Exchange, ops: PciFunction) -> None:
    body = dma_unmap(flags=2)
    assert exchange.ok(Command.DMA_UNMAP, body) == body
    assert ops.calls == [("dma_unmap_all",)]


@pytest.mark.vfio_user("12.11.5")
def test_dma_unmap_of_an_unknown_range_is_enoent(exchange: Exchange, ops: PciFunction) -> None:
    ops.refuse["dma_unmap"] = PeerError("no such map", errno.ENOENT)
    assert exchange.errno(Command.DMA_UNMAP, dma_unmap(0, 0x1000, 0x1000)) == errno.ENOENT


@pytest.mark.parametrize(
    "body",
    [
        dma_unmap(0, 0x1000, 0x1000, argsz=8),
        dma_unmap(0, 0x1000, 0x1000, argsz=(1 << 20) + 1),
        dma_unmap(1, 0x1000, 0x1000) + struct.pack("<QQ", 4096, (1 << 64) - 1),
        dma_unmap(1, 0x1000, 0x1000) + struct.pack("<QQ", 4096, 8),
        dma_unmap(4, 0x1000, 0x1000),
        dma_unmap(4),
        dma_unmap(0x80000002),
        dma_unmap(2, 0x1000, 0),
        dma_unmap(2, 0, 0x1000),
        dma_unmap(3),
        dma_unmap(0, 0x1000, 0),
        dma_unmap(0, 0x1000, (1 << 64) - 1),
    ],
)
@pytest.mark.vfio_user("12.11.1", "12.11.2", "12.11.3", "12.11.7", "12.12.9")
def test_dma_unmap_that_is_wrong_is_refused(
    exchange: Exchange, ops: PciFunction, body: bytes
) -> None:
    assert exchange.errno(Command.DMA_UNMAP, body) == errno.EINVAL
    assert ops.calls == []


# DEVICE_GET_INFO, DEVICE_GET_IRQ_INFO, DEVICE_RESET


@pytest.mark.parametrize("argsz", [16, 32, 4064])
@pytest.mark.vfio_user("11.8", "12.3.3")
def test_get_info_tells_flags_regions_and_irqs(exchange: Exchange, argsz: int) -> None:
    reply = exchange.ok(Command.DEVICE_GET_INFO, struct.pack("<IIII", argsz, 0, 0, 0))
    assert reply == struct.pack("<IIII", 16, 3, 9, 5)


def test_get_info_takes_a_long_request(exchange: Exchange) -> None:
    body = struct.pack("<IIII", 16, 0, 0, 0) + bytes(4048)
    assert len(exchange.ok(Command.DEVICE_GET_INFO, body)) == 16


@pytest.mark.parametrize("command", [4, 5, 6, 7])
@pytest.mark.parametrize("argsz", [0, 8, 15])
@pytest.mark.vfio_user("12.3.2", "12.4.1", "12.5.1")
def test_argsz_below_the_fixed_part_is_refused(
    exchange: Exchange, command: int, argsz: int
) -> None:
    body = struct.pack("<IIIIQQ", argsz, 0, 0, 0, 0, 0)
    assert exchange.errno(command, body) == errno.EINVAL


@pytest.mark.parametrize(("index", "count"), [(0, 1), (1, 0), (2, 32), (3, 1), (4, 1)])
@pytest.mark.vfio_user("11.8", "12.4.2", "12.4.3", "12.4.4", "12.15.8")
def test_get_irq_info_has_eventfd_as_its_only_flag(
    exchange: Exchange, index: int, count: int
) -> None:
    body = struct.pack("<IIII", 32, 0, index, 0)
    expected = struct.pack("<IIII", 16, 1, index, count)
    assert exchange.ok(Command.DEVICE_GET_IRQ_INFO, body) == expected


@pytest.mark.parametrize("index", [5, 0xFFFFFFFF])
@pytest.mark.vfio_user("12.4.1")
def test_get_irq_info_of_no_such_index_is_refused(exchange: Exchange, index: int) -> None:
    body = struct.pack("<IIII", 16, 0, index, 0)
    assert exchange.errno(Command.DEVICE_GET_IRQ_INFO, body) == errno.EINVAL


@pytest.mark.vfio_user("11.3")
def test_reset_reaches_the_device(exchange: Exchange, ops: PciFunction) -> None:
    assert exchange.ok(Command.DEVICE_RESET) == b""
    assert ops.calls == [("reset", ResetReason.CLIENT)]


def test_reset_of_a_device_without_one_is_refused_and_not_announced(ops: PciFunction) -> None:
    ops.resettable = False
    exchange = Exchange(ops)
    assert exchange.errno(Command.DEVICE_RESET) == errno.EINVAL
    info = exchange.ok(Command.DEVICE_GET_INFO, GOOD[Command.DEVICE_GET_INFO])
    assert info[4:8] == struct.pack("<I", 2)
    assert ops.calls == []


# DEVICE_GET_REGION_INFO, DEVICE_GET_REGION_IO_FDS


def region_info(index: int, argsz: int = 32) -> bytes:
    return struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0)


@pytest.mark.parametrize(
    ("index", "flags", "size"), [(3, 3, 0x4000), (6, 1, 2048), (7, 3, CONFIG_SIZE), (1, 0, 0)]
)
@pytest.mark.parametrize("argsz", [32, 40, 4064])
@pytest.mark.vfio_user("12.5.2", "12.5.5", "12.6.1")
def test_plain_region_is_told_in_32_bytes(
    exchange: Exchange, index: int, flags: int, size: int, argsz: int
) -> None:
    reply = exchange.ok(Command.DEVICE_GET_REGION_INFO, region_info(index, argsz))
    assert reply == struct.pack("<IIIIQQ", 32, flags, index, 0, size, 0)


@pytest.mark.parametrize("gigabytes", [4, 8])
@pytest.mark.vfio_user("12.17.7")
def test_region_of_gigabytes_is_told(ops: PciFunction, gigabytes: int) -> None:
    description = ops.describe()
    regions = (*description.regions[:3], RegionInfo(gigabytes << 30), *description.regions[4:])
    ops.describe = lambda: replace(description, regions=regions)  # type: ignore[method-assign]
    reply = Exchange(ops).ok(Command.DEVICE_GET_REGION_INFO, region_info(3))
    assert reply == struct.pack("<IIIIQQ", 32, 3, 3, 0, gigabytes << 30, 0)


@pytest.mark.parametrize("argsz", [32, 48, 79])
@pytest.mark.vfio_user("12.5.3")
def test_mappable_region_first_tells_what_it_needs(exchange: Exchange, argsz: int) -> None:
    message = frame(Command.DEVICE_GET_REGION_INFO, region_info(0, argsz))
    reply = exchange.send(message)
    assert reply is not None
    assert reply.data[16:] == struct.pack("<IIIIQQ", 80, 7, 0, 0, 0x10000, 0)
    assert reply.fds == ()


@pytest.mark.parametrize("argsz", [80, 4064])
@pytest.mark.vfio_user("12.5.4")
def test_mappable_region_then_brings_areas_and_one_descriptor(
    exchange: Exchange, ops: PciFunction, argsz: int
) -> None:
    reply = exchange.send(frame(Command.DEVICE_GET_REGION_INFO, region_info(0, argsz)))
    assert reply is not None
    assert reply.data[16:] == bytes.fromhex(
        "50000000 0f000000 00000000 20000000 0000010000000000 0000000000000000"
        "0100 0100 00000000 02000000 00000000"
        "0000000000000000 0010000000000000 0020000000000000 0010000000000000"
    )
    assert reply.fds == (ops.memfd,)


def test_region_mappable_as_a_whole_needs_no_capability(ops: PciFunction) -> None:
    ops.areas = (MmapArea(0, 0x10000),)
    reply = Exchange(ops).send(frame(Command.DEVICE_GET_REGION_INFO, region_info(0)))
    assert reply is not None
    assert reply.data[16:] == struct.pack("<IIIIQQ", 32, 7, 0, 0, 0x10000, 0)
    assert reply.fds == (ops.memfd,)


@pytest.mark.parametrize("index", [9, 0xFFFFFFFF])
@pytest.mark.vfio_user("12.5.1")
def test_region_that_cannot_exist_is_refused(exchange: Exchange, index: int) -> None:
    assert exchange.errno(Command.DEVICE_GET_REGION_INFO, region_info(index)) == errno.EINVAL


@pytest.mark.vfio_user("12.6.1")
def test_every_region_below_num_regions_is_answered(exchange: Exchange) -> None:
    sizes = [exchange.ok(5, region_info(index))[16:24] for index in range(9)]
    expected = [0x10000, 0, 0, 0x4000, 0, 0, 2048, 4096, 0]
    assert sizes == [struct.pack("<Q", size) for size in expected]


@pytest.mark.parametrize("index", [0, 3, 6, 7])
@pytest.mark.vfio_user("12.7.2", "12.7.3", "12.7.4", "12.7.5", "12.7.6", "12.7.7", "12.19.1")
def test_region_io_fds_are_none(exchange: Exchange, index: int) -> None:
    body = struct.pack("<IIII", 4096, 0, index, 0)
    expected = struct.pack("<IIII", 16, 0, index, 0)
    assert exchange.ok(Command.DEVICE_GET_REGION_IO_FDS, body) == expected


@pytest.mark.parametrize(
    "body", [(16, 1, 0, 0), (16, 0, 0, 1), (15, 0, 0, 0), (1048577, 0, 0, 0), (16, 0, 9, 0)]
)
@pytest.mark.vfio_user("12.7.1")
def test_region_io_fds_that_are_wrong_are_refused(
    exchange: Exchange, body: tuple[int, int, int, int]
) -> None:
    assert exchange.errno(6, struct.pack("<IIII", *body)) == errno.EINVAL


@pytest.mark.vfio_user("12.7.1")
def test_region_io_fds_of_an_absent_region_are_refused(exchange: Exchange) -> None:
    assert exchange.errno(6, struct.pack("<IIII", 16, 0, 1, 0)) == errno.EINVAL


# REGION_READ, REGION_WRITE


def access(region: int, offset: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<QII", offset, region, count) + data


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", range(8))
@pytest.mark.vfio_user("12.17.3", "12.21.7")
def test_config_access_of_every_width_at_every_alignment(
    exchange: Exchange, ops: PciFunction, offset: int, count: int
) -> None:
    data = bytes(range(1, count + 1))
    head = access(7, offset, count)
    assert exchange.ok(Command.REGION_WRITE, head + data) == head
    assert exchange.ok(Command.REGION_READ, head) == head + data
    assert ops.calls == [
        ("region_write", 7, offset, data),
        ("region_read", 7, offset, count),
    ]


@pytest.mark.vfio_user("12.21.7")
def test_config_space_is_read_in_one_message(exchange: Exchange, ops: PciFunction) -> None:
    head = access(7, 0, CONFIG_SIZE)
    assert exchange.ok(Command.REGION_READ, head) == head + bytes(ops.memory[7])


@pytest.mark.parametrize("offset", [0, CONFIG_SIZE])
@pytest.mark.parametrize("command", [9, 10])
@pytest.mark.vfio_user("12.17.5")
def test_access_of_no_bytes_succeeds_and_asks_nobody(
    exchange: Exchange, ops: PciFunction, command: int, offset: int
) -> None:
    head = access(7, offset, 0)
    assert exchange.ok(command, head) == head
    assert ops.calls == []


def test_read_request_with_bytes_behind_it_is_answered_in_size(exchange: Exchange) -> None:
    assert len(exchange.ok(Command.REGION_READ, access(7, 0, 4) + bytes(100))) == 20


@pytest.mark.parametrize("command", [9, 10])
@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [
        (7, CONFIG_SIZE, 1),
        (7, CONFIG_SIZE - 3, 4),
        (7, (1 << 64) - 1, 1),
        (7, (1 << 64) - 1, 4),
        (7, 0, CONFIG_SIZE + 1),
        (1, 0, 1),
        (9, 0, 1),
        (0xFFFFFFFF, 0, 1),
    ],
)
@pytest.mark.vfio_user("12.17.4")
def test_access_outside_a_region_is_refused(
    exchange: Exchange, ops: PciFunction, command: int, region: int, offset: int, count: int
) -> None:
    data = bytes(count) if command == Command.REGION_WRITE else b""
    assert exchange.errno(command, access(region, offset, count, data)) == errno.EINVAL
    assert ops.calls == []


@pytest.mark.parametrize("count", [(1 << 20) + 1, 0xFFFFFFFF])
@pytest.mark.vfio_user("12.17.6")
def test_read_of_more_than_a_transfer_is_refused(exchange: Exchange, count: int) -> None:
    assert exchange.errno(Command.REGION_READ, access(0, 0, count)) == errno.EINVAL


@pytest.mark.parametrize("data", [b"", b"123", b"12345"])
@pytest.mark.vfio_user("12.17.6")
def test_write_whose_data_does_not_match_its_count_is_refused(
    exchange: Exchange, ops: PciFunction, data: bytes
) -> None:
    assert exchange.errno(Command.REGION_WRITE, access(7, 0, 4, data)) == errno.EINVAL
    assert ops.calls == []


def test_write_to_a_region_that_is_only_read_is_refused(exchange: Exchange) -> None:
    assert exchange.errno(Command.REGION_WRITE, access(6, 0, 1, b"x")) == errno.EINVAL


def test_device_that_reads_short_is_answered_as_an_error(
    exchange: Exchange, ops: PciFunction
) -> None:
    del ops.memory[3][0x3FFF:]
    assert exchange.errno(Command.REGION_READ, access(3, 0x3FFE, 2)) == errno.EINVAL
