"""DEVICE_SET_IRQS: every data type with every action, and every way to get it wrong."""

import errno
import os
import struct
from collections.abc import Callable

import pytest

from emuiavf.vfio_user.client import close_fds, eventfds
from emuiavf.vfio_user.wire import Command
from tests.fakes.pci_function import MSIX_VECTORS, PciFunction
from tests.vfio_user.exchange import HEADER, Exchange, frame

NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 0x10, 0x20
INTX, MSI, MSIX, ERR, REQ = range(5)


def body(
    flags: int, index: int, start: int, count: int, data: bytes = b"", argsz: int = 20
) -> bytes:
    return struct.pack("<IIIII", argsz, flags, index, start, count) + data


@pytest.fixture
def exchange(ops: PciFunction) -> Exchange:
    return Exchange(ops)


def set_irqs(exchange: Exchange, request: bytes, fds: list[int] | None = None) -> None:
    assert exchange.ok(Command.DEVICE_SET_IRQS, request, fds or ()) == b""


def refused(exchange: Exchange, request: bytes, fds: list[int] | None = None) -> int:
    return exchange.errno(Command.DEVICE_SET_IRQS, request, fds or ())


# Eventfds


@pytest.mark.vfio_user("12.21.4")
def test_sixteen_eventfds_arrive_in_one_message(exchange: Exchange, ops: PciFunction) -> None:
    set_irqs(exchange, body(EVENTFD | TRIGGER, MSIX, 16, 16), eventfds(16))
    assert ops.calls == [("set_irq_eventfds", MSIX, 16, [True] * 16)]


@pytest.mark.vfio_user("12.21.4")
def test_vector_is_assigned_without_those_below_it(exchange: Exchange, ops: PciFunction) -> None:
    set_irqs(exchange, body(EVENTFD | TRIGGER, MSIX, 31, 1), eventfds(1))
    assert list(ops.fds) == [(MSIX, 31)]


@pytest.mark.vfio_user("12.8.8")
def test_vector_is_assigned_again(exchange: Exchange, ops: PciFunction) -> None:
    request = body(EVENTFD | TRIGGER, MSIX, 1, 1)
    set_irqs(exchange, request, eventfds(1))
    set_irqs(exchange, request, eventfds(1))
    assert list(ops.fds) == [(MSIX, 1)]


@pytest.mark.vfio_user("12.21.5")
def test_vector_0_without_eventfd_right_after_enable_succeeds(
    exchange: Exchange, ops: PciFunction
) -> None:
    set_irqs(exchange, body(EVENTFD | TRIGGER, MSIX, 0, 1))
    assert ops.calls == [("set_irq_eventfds", MSIX, 0, [False])]


@pytest.mark.vfio_user("12.8.7", "12.21.4")
def test_middle_range_is_deassigned(exchange: Exchange, ops: PciFunction) -> None:
    set_irqs(exchange, body(EVENTFD | TRIGGER, MSIX, 0, 8), eventfds(8))
    set_irqs(exchange, body(EVENTFD | TRIGGER, MSIX, 3, 4))
    assert sorted(vector for _, vector in ops.fds) == [0, 1, 2, 7]


@pytest.mark.parametrize("index", range(5))
@pytest.mark.vfio_user("12.8.7")
def test_index_is_disabled_as_a_whole_even_without_vectors(
    exchange: Exchange, ops: PciFunction, index: int
) -> None:
    set_irqs(exchange, body(NONE | TRIGGER, index, 0, 0))
    assert ops.calls == [("disable_irqs", index)]


def test_indexes_do_not_share_eventfds(exchange: Exchange, ops: PciFunction) -> None:
    set_irqs(exchange, body(EVENTFD | TRIGGER, INTX, 0, 1), eventfds(1))
    set_irqs(exchange, body(EVENTFD | TRIGGER, MSIX, 0, 1), eventfds(1))
    set_irqs(exchange, body(NONE | TRIGGER, MSIX, 0, 0))
    assert list(ops.fds) == [(INTX, 0)]


@pytest.mark.parametrize("index", [ERR, REQ])
def test_error_and_request_take_their_one_eventfd(
    exchange: Exchange, ops: PciFunction, index: int
) -> None:
    set_irqs(exchange, body(EVENTFD | TRIGGER, index, 0, 1), eventfds(1))
    assert list(ops.fds) == [(index, 0)]


def test_blocking_eventfd_is_made_nonblocking(exchange: Exchange, ops: PciFunction) -> None:
    set_irqs(exchange, body(EVENTFD | TRIGGER, MSIX, 0, 1), [os.eventfd(0, os.EFD_CLOEXEC)])
    assert not os.get_blocking(ops.fds[MSIX, 0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: os.memfd_create("anon_inode:[eventfd]"),
        lambda: os.open("/dev/null", os.O_RDWR),
        lambda: os.pidfd_open(os.getpid()),
    ],
    ids=["memfd", "file", "pidfd"],
)
def test_descriptor_that_is_no_eventfd_is_refused_and_all_closed(
    exchange: Exchange, ops: PciFunction, make: Callable[[], int]
) -> None:
    request = body(EVENTFD | TRIGGER, MSIX, 0, 2)
    assert refused(exchange, request, [*eventfds(1), make()]) == errno.EINVAL
    assert ops.calls == []


# Triggers and masks


@pytest.mark.vfio_user("12.8.10", "12.9.3")
def test_trigger_fires_the_named_vectors_only(exchange: Exchange, ops: PciFunction) -> None:
    fds = eventfds(3)
    set_irqs(exchange, body(EVENTFD | TRIGGER, MSIX, 0, 3), [os.dup(fd) for fd in fds])
    set_irqs(exchange, body(NONE | TRIGGER, MSIX, 1, 1))
    assert os.eventfd_read(fds[1]) == 1
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fds[0])
    close_fds(fds)
    assert ops.calls[-1] == ("trigger_irqs", MSIX, [1])


@pytest.mark.vfio_user("12.8.11")
def test_trigger_by_bytes_fires_where_a_byte_is_set(exchange: Exchange, ops: PciFunction) -> None:
    set_irqs(exchange, body(EVENTFD | TRIGGER, MSIX, 0, 8), eventfds(8))
    set_irqs(exchange, body(BOOL | TRIGGER, MSIX, 4, 4, b"\0\1\0\1", 24))
    assert ops.calls[-1] == ("trigger_irqs", MSIX, [5, 7])


@pytest.mark.vfio_user("11.12", "12.9.2")
def test_trigger_of_a_vector_without_eventfd_is_enoent(exchange: Exchange) -> None:
    assert refused(exchange, body(NONE | TRIGGER, MSIX, 3, 1)) == errno.ENOENT


@pytest.mark.parametrize(("action", "masked"), [(MASK, True), (UNMASK, False)])
@pytest.mark.vfio_user("12.8.12")
def test_mask_and_unmask_reach_the_device(
    exchange: Exchange, ops: PciFunction, action: int, masked: bool
) -> None:
    set_irqs(exchange, body(NONE | action, MSIX, 2, 3))
    set_irqs(exchange, body(BOOL | action, MSIX, 2, 3, b"\1\0\1", 23))
    assert ops.calls == [
        ("mask_irqs", MSIX, [2, 3, 4], masked),
        ("mask_irqs", MSIX, [2, 4], masked),
    ]


# What is refused

WRONG = {
    "argsz too small": body(NONE | TRIGGER, MSIX, 0, 1, argsz=3),
    "index out of range": body(NONE | TRIGGER, 5, 0, 1),
    "mask and unmask": body(NONE | MASK | UNMASK, MSIX, 0, 1),
    "all actions": body(NONE | MASK | UNMASK | TRIGGER, MSIX, 0, 1),
    "none and bool": body(NONE | BOOL | TRIGGER, MSIX, 0, 1),
    "no action": body(NONE, MSIX, 0, 1),
    "no data type": body(TRIGGER, MSIX, 0, 1),
    "unknown flag": body(0x40 | NONE | TRIGGER, MSIX, 0, 1),
    "high flag": body(0x80000000 | NONE | TRIGGER, MSIX, 0, 1),
    "beyond the range": body(NONE | TRIGGER, MSIX, 1, MSIX_VECTORS),
    "start beyond": body(NONE | TRIGGER, MSIX, MSIX_VECTORS, 1),
    "start overflows": body(NONE | TRIGGER, MSIX, 0xFFFFFFFF, 1),
    "count overflows": body(NONE | TRIGGER, MSIX, 1, 0xFFFFFFFF),
    "index without vectors": body(NONE | TRIGGER, MSI, 0, 1),
    "mask on error": body(NONE | MASK, ERR, 0, 1),
    "mask on request": body(NONE | MASK, REQ, 0, 1),
    "unmask on error": body(BOOL | UNMASK, ERR, 0, 1, b"\1"),
    "two errors": body(NONE | TRIGGER, ERR, 0, 2),
    "two requests": body(NONE | TRIGGER, REQ, 0, 2),
    "nothing from vector 1": body(NONE | TRIGGER, MSIX, 1, 0),
    "nothing to mask": body(NONE | MASK, MSIX, 0, 0),
    "nothing by bytes": body(BOOL | TRIGGER, MSIX, 0, 0),
    "nothing by eventfds": body(EVENTFD | TRIGGER, MSIX, 0, 0),
    "too few bytes": body(BOOL | TRIGGER, MSIX, 0, 2, b"\1", 21),
    "too many bytes": body(BOOL | TRIGGER, MSIX, 0, 2, b"\1\1\1", 23),
}


@pytest.mark.parametrize("request_", WRONG.values(), ids=WRONG.keys())
@pytest.mark.vfio_user(
    "11.12", "12.8.1", "12.8.2", "12.8.3", "12.8.4", "12.8.5", "12.8.9", "12.9.1"
)
def test_wrong_request_is_refused_and_changes_nothing(
    exchange: Exchange, ops: PciFunction, request_: bytes
) -> None:
    assert refused(exchange, request_) == errno.EINVAL
    assert ops.calls == []


WRONG_FDS = {
    "with bool": (body(BOOL | TRIGGER, MSIX, 0, 1, b"\1", 21), 1),
    "with none": (body(NONE | TRIGGER, MSIX, 0, 1), 1),
    "with disable": (body(NONE | TRIGGER, MSIX, 0, 0), 1),
    "fewer than count": (body(EVENTFD | TRIGGER, MSIX, 0, 2), 1),
    "more than count": (body(EVENTFD | TRIGGER, MSIX, 0, 1), 2),
    "beyond the range": (body(EVENTFD | TRIGGER, MSIX, 31, 2), 2),
}


@pytest.mark.parametrize(("request_", "count"), WRONG_FDS.values(), ids=WRONG_FDS.keys())
@pytest.mark.vfio_user("12.2.6", "12.8.6")
def test_wrong_descriptors_are_refused_and_closed(
    exchange: Exchange, ops: PciFunction, request_: bytes, count: int
) -> None:
    assert refused(exchange, request_, eventfds(count)) == errno.EINVAL
    assert ops.calls == []


@pytest.mark.parametrize("action", [MASK, UNMASK])
@pytest.mark.parametrize("count", [0, 1])
def test_masking_by_eventfd_is_not_supported(
    exchange: Exchange, ops: PciFunction, action: int, count: int
) -> None:
    assert refused(exchange, body(EVENTFD | action, INTX, 0, 1), eventfds(count)) == errno.ENOTSUP
    assert ops.calls == []


def test_descriptors_lost_on_the_way_are_told(exchange: Exchange, ops: PciFunction) -> None:
    message = frame(Command.DEVICE_SET_IRQS, body(EVENTFD | TRIGGER, MSIX, 0, 2))
    reply = exchange.send(message, eventfds(1), truncated=True)
    assert reply is not None
    assert HEADER.unpack(reply.data) == (0x5A, 8, 16, 0x21, errno.EFAULT)
    assert ops.calls == []
