"""The server on real sockets: torn messages, leaving clients, and clients that do not read."""

import array
import contextlib
import errno
import logging
import os
import resource
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emuiavf.emudev.info import ResetReason
from emuiavf.errors import ConfigError, PeerError
from emuiavf.loop import Loop
from emuiavf.vfio_user.client import Client, close_fds, eventfds
from emuiavf.vfio_user.server import Server
from emuiavf.vfio_user.wire import Command
from tests.fakes.pci_function import PciFunction
from tests.vfio_user.conftest import Served
from tests.vfio_user.exchange import HEADER, frame

VERSION = frame(Command.VERSION, b"\0\0\0\0")
READ = frame(Command.REGION_READ, struct.pack("<QII", 0, 7, 4))
DMA_MAP = frame(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 4096))
SET_IRQS = frame(Command.DEVICE_SET_IRQS, struct.pack("<IIIII", 20, 0x24, 2, 0, 2))


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


class Joined:
    """A server at one end of a socket pair, driven turn by turn by the test."""

    def __init__(self, loop: Loop, ops: PciFunction) -> None:
        self.loop = loop
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(5)
        self.server = Server(loop, ops, theirs.detach(), "pair")

    def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.loop.run_once(0)

    def ask(self, message: bytes, fds: list[int] | None = None) -> bytes:
        """Send one message in one piece and return the reply to it."""
        if fds:
            socket.send_fds(self.sock, [message], fds)
        else:
            self.sock.sendall(message)
        self.turn()
        return self.sock.recv(65536)


@pytest.fixture
def joined(loop: Loop, ops: PciFunction) -> Iterator[Joined]:
    made = Joined(loop, ops)
    made.ask(VERSION)
    ops.calls.clear()
    yield made
    made.server.close()
    made.sock.close()


@contextlib.contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let the process open `count` more descriptors and no more."""
    free = [os.dup(0) for _ in range(count + 1)]
    close_fds(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


# One client


@pytest.mark.vfio_user("12.21.1")
def test_reply_leaves_in_one_piece(joined: Joined) -> None:
    joined.sock.sendall(READ)
    joined.turn()
    assert len(joined.sock.recv(16)) == 16
    assert joined.sock.recv(100)[16:] == b"\x86\x80\x89\x18"


@pytest.mark.vfio_user("12.21.1")
def test_reply_with_descriptor_carries_it_on_the_first_byte(
    joined: Joined, ops: PciFunction
) -> None:
    joined.sock.sendall(frame(5, struct.pack("<IIIIQQ", 80, 0, 0, 0, 0, 0)))
    joined.turn()
    first, fds, _, _ = socket.recv_fds(joined.sock, 1, 16)
    assert len(first) == len(fds) == 1
    assert os.fstat(fds[0]).st_ino == os.fstat(ops.memfd).st_ino
    assert len(joined.sock.recv(200)) == 95
    close_fds(fds)


@pytest.mark.parametrize("at", range(1, len(READ)))
def test_message_torn_anywhere_is_answered_once_it_is_whole(joined: Joined, at: int) -> None:
    joined.sock.sendall(READ[:at])
    joined.turn()
    assert not readable(joined.sock)
    assert len(joined.ask(READ[at:])) == 36


@pytest.mark.vfio_user("11.1", "12.21.2")
def test_pipelined_mix_is_answered_in_order_and_posted_ones_never(
    joined: Joined, ops: PciFunction
) -> None:
    ops.refuse["dma_unmap"] = PeerError("no such map", errno.ENOENT)
    stream, expected = b"", []
    for i in range(32):
        stream += frame(2, struct.pack("<IIQQQ", 32, 3, 0, i << 12, 4096), msg_id=4 * i)
        stream += frame(10, struct.pack("<QII", i, 3, 1) + b"x", 0x10, msg_id=4 * i + 1)
        stream += frame(3, struct.pack("<IIQQ", 24, 0, i << 12, 4096), msg_id=4 * i + 2)
        stream += frame(10, struct.pack("<QII", i, 99, 1) + b"x", 0x10, msg_id=4 * i + 3)
        expected += [(4 * i, 2, 16, 1, 0), (4 * i + 2, 3, 16, 0x21, errno.ENOENT)]
    joined.sock.sendall(stream)
    joined.turn(128)
    replies = joined.sock.recv(65536)
    assert [HEADER.unpack_from(replies, at) for at in range(0, len(replies), 16)] == expected
    assert ops.memory[3][:33] == b"x" * 32 + b"\0"


def test_sixteen_eventfds_arrive_over_the_socket(joined: Joined, ops: PciFunction) -> None:
    fds = eventfds(16)
    request = frame(8, struct.pack("<IIIII", 20, 0x24, 2, 0, 16))
    assert HEADER.unpack(joined.ask(request, fds))[3] == 1
    os.eventfd_write(ops.fds[2, 15], 7)
    assert os.eventfd_read(fds[15]) == 7
    close_fds(fds)


def test_as_many_descriptors_as_the_kernel_sends_are_taken(joined: Joined) -> None:
    fds = [joined.sock.fileno()] * 253
    assert len(joined.ask(READ, fds)) == 36


def test_descriptors_on_payload_bytes_are_closed(joined: Joined) -> None:
    joined.sock.sendall(DMA_MAP[:16])
    joined.turn()
    reply = joined.ask(DMA_MAP[16:], [joined.sock.fileno()])
    assert HEADER.unpack(reply)[3] == 1


def test_descriptors_that_do_not_fit_into_the_process_are_told(
    joined: Joined, ops: PciFunction
) -> None:
    fds = eventfds(2)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    joined.sock.sendmsg([SET_IRQS], [rights])
    with room_for(1):
        joined.turn()
    assert HEADER.unpack(joined.sock.recv(100)) == (0x5A, 8, 16, 0x21, errno.EFAULT)
    assert ops.calls == []
    assert len(joined.ask(READ)) == 36
    close_fds(fds)


# The end of a connection


@pytest.mark.parametrize("size", [0, 15, 1048609, 0xFFFFFFFF])
@pytest.mark.vfio_user("12.1.2", "12.2.1", "12.2.2")
def test_message_of_impossible_size_is_refused_and_ends_the_connection(
    joined: Joined, ops: PciFunction, size: int
) -> None:
    header = HEADER.pack(0x5A, 9, size, 0, 0)
    assert HEADER.unpack(joined.ask(header)) == (0x5A, 9, 16, 0x21, errno.EINVAL)
    assert joined.sock.recv(1) == b""
    assert ops.calls == [("detached",)]


def test_posted_message_of_impossible_size_just_ends_the_connection(joined: Joined) -> None:
    assert joined.ask(HEADER.pack(0x5A, 9, 15, 0x10, 0)) == b""


def test_version_that_is_refused_is_answered_before_the_end(loop: Loop, ops: PciFunction) -> None:
    fresh = Joined(loop, ops)
    reply = fresh.ask(frame(1, struct.pack("<HH", 999, 0)))
    assert HEADER.unpack(reply) == (0x5A, 1, 16, 0x21, errno.EINVAL)
    assert fresh.sock.recv(1) == b""
    assert ops.calls == []
    assert not fresh.server.connected
    fresh.sock.close()
    fresh.server.close()


STREAM = VERSION + DMA_MAP + SET_IRQS + READ


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
@pytest.mark.vfio_user("11.2", "12.1.13", "12.10.4", "12.10.5", "12.21.9")
def test_client_that_leaves_at_any_byte_leaves_nothing_behind(
    loop: Loop, ops: PciFunction, at: int
) -> None:
    fresh = Joined(loop, ops)
    fds = eventfds(2)
    for message, sent_fds in ((VERSION, []), (DMA_MAP, fds[:1]), (SET_IRQS, fds), (READ, [])):
        part, at = message[:at], max(0, at - len(message))
        if part:
            socket.send_fds(fresh.sock, [part], sent_fds)
    close_fds(fds)
    fresh.sock.close()
    fresh.turn(6)
    assert not fresh.server.connected
    assert (ops.maps, ops.fds) == ([], {})
    assert ops.calls.count(("detached",)) == ops.calls.count(("attached",)) <= 1
    fresh.server.close()


@pytest.mark.vfio_user("12.20.1")
def test_close_sends_the_client_away_and_tells_the_device_once(
    joined: Joined, ops: PciFunction
) -> None:
    joined.server.close()
    joined.server.close()
    assert joined.sock.recv(1) == b""
    assert ops.calls == [("detached",)]


def test_server_closed_by_the_device_in_mid_message_sends_nothing_more(
    joined: Joined, ops: PciFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "reset", lambda reason: joined.server.close())
    assert joined.ask(frame(Command.DEVICE_RESET)) == b""


# A client that does not read


def test_client_that_does_not_read_is_not_read_any_more_and_loses_nothing(
    loop: Loop, joined: Joined, ops: PciFunction
) -> None:
    request = frame(Command.REGION_READ, struct.pack("<QII", 0, 0, 0x10000))
    count = 200
    feeder = threading.Thread(target=joined.sock.sendall, args=(request * count,))
    feeder.start()
    idle_turns = 0
    while idle_turns < 5:
        before = len(ops.calls)
        loop.run_once(0.02)
        idle_turns = 0 if len(ops.calls) > before else idle_turns + 1
    served = len(ops.calls)
    assert served < 60
    received = 0
    joined.sock.setblocking(False)
    while received < count * (32 + 0x10000):
        loop.run_once(0)
        try:
            received += len(joined.sock.recv(1 << 20))
        except BlockingIOError:
            continue
    feeder.join()
    assert received == count * (32 + 0x10000)


@pytest.mark.vfio_user("12.2.9")
def test_client_that_leaves_without_having_read_is_noticed(
    loop: Loop, joined: Joined, ops: PciFunction
) -> None:
    request = frame(Command.REGION_READ, struct.pack("<QII", 0, 0, 0x10000))
    joined.sock.sendall(request * 100)
    joined.turn(100)
    joined.sock.close()
    joined.turn(3)
    assert not joined.server.connected
    assert ops.calls[-1] == ("detached",)


def test_descriptor_of_a_delayed_reply_survives(loop: Loop, joined: Joined) -> None:
    filler = frame(Command.REGION_READ, struct.pack("<QII", 0, 0, 0x10000))
    wanted = frame(5, struct.pack("<IIIIQQ", 80, 0, 0, 0, 0, 0))
    joined.sock.sendall(filler * 10 + wanted)
    joined.turn(11)
    left, fds = 10 * (32 + 0x10000) + 96, []
    while left:
        loop.run_once(0)
        data, got, _, _ = socket.recv_fds(joined.sock, left, 4)
        left -= len(data)
        fds += got
    assert len(fds) == 1
    close_fds(fds)


# Clients one after the other


@pytest.mark.vfio_user("11.2")
def test_next_client_is_served_after_the_first_has_left(served: Served) -> None:
    first = Client(served.path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as second:
        second.connect(str(served.path))
        second.sendall(VERSION)
        assert first.region_read(7, 0, 2) == b"\x86\x80"
        assert not readable(second)
        first.close()
        second.settimeout(5)
        assert len(second.recv(200)) > 16
    names = [call[0] for call in served.ops.calls if call[0].endswith("tached")]
    assert names[:3] == ["attached", "detached", "attached"]


@pytest.mark.vfio_user("12.21.9")
def test_hundred_clients_come_and_go(served: Served) -> None:
    for _ in range(100):
        with Client(served.path) as client:
            client.dma_map(0, 4096)
    with Client(served.path):
        assert served.ops.maps == []


def test_reset_by_the_client_keeps_maps_and_eventfds(served: Served) -> None:
    fds = eventfds(1)
    with Client(served.path) as client:
        client.dma_map(0, 4096)
        client.set_eventfds(fds)
        client.reset()
        assert len(served.ops.maps) == len(served.ops.fds) == 1
    close_fds(fds)
    assert ("reset", ResetReason.CLIENT) in served.ops.calls


def test_clients_that_fail_in_a_loop_cannot_fill_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(50):
            with Client(served.path, negotiate=False) as client:
                client.send_raw(HEADER.pack(0, 9, 15, 0, 0))
                assert client.receive().flags == 0x21
    assert 2 <= len(caplog.records) <= 10


def test_reason_of_a_refusal_is_logged_and_no_more_often_than_that(
    joined: Joined, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        joined.sock.sendall(frame(Command.REGION_READ, struct.pack("<QII", 9, 1, 4)) * 1000)
        joined.turn(1000)
    assert caplog.messages[0] == "pair: REGION_READ refused: region 1: offset 0x9 count 4, size 0x0"
    assert len(caplog.messages) <= 10


def test_accept_without_free_descriptors_is_tried_again(
    loop: Loop, ops: PciFunction, tmp_path: Path
) -> None:
    server = Server(loop, ops, tmp_path / "vf.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(tmp_path / "vf.sock"))
        with room_for(0):
            loop.run_once(1)
        assert not server.connected
        deadline = loop.now() + 5
        while not server.connected and loop.now() < deadline:
            loop.run_once(1)
        assert server.connected
        server.close()


# Sockets given to the server


def test_listening_descriptor_is_served(loop: Loop, ops: PciFunction, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "given.sock"))
    listener.listen()
    server = Server(loop, ops, listener.detach())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(tmp_path / "given.sock"))
        sock.sendall(VERSION)
        loop.run_once(1)
        loop.run_once(1)
        assert len(sock.recv(200)) > 16
    server.close()
    assert (tmp_path / "given.sock").exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda: os.memfd_create("no socket"),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach(),
    ],
    ids=["memfd", "datagram", "inet"],
)
@pytest.mark.vfio_user("12.20.2")
def test_descriptor_of_the_wrong_kind_is_refused(
    loop: Loop, ops: PciFunction, make: Callable[[], int]
) -> None:
    fd = make()
    with pytest.raises(ConfigError, match=f"descriptor {fd}"):
        Server(loop, ops, fd)
    os.close(fd)


def test_descriptor_that_is_not_open_is_refused(loop: Loop, ops: PciFunction) -> None:
    with pytest.raises(ConfigError, match="descriptor 9999"):
        Server(loop, ops, 9999)
