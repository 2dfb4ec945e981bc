"""A server that breaks the protocol, or leaves: the program gets an errno and lives on."""

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from emuiavf.vfio_user.codec import Codec, Message, encode
from emuiavf.vfio_user.fd_socket import ANCILLARY_SIZE, received_fds
from emuiavf.vfio_user.wire import Command
from tests.shim.conftest import ROOT, TIMEOUT_S, command, program

pytestmark = pytest.mark.slow

# What is sent in place of an answer: None ends the connection.
Spoil = Callable[[Message], tuple[bytes, list[int]] | None]


def read_message(sock: socket.socket, codec: Codec) -> Message | None:
    while True:
        data, ancillary, _, _ = sock.recvmsg(codec.wanted, ANCILLARY_SIZE)
        if not data:
            return None
        message = codec.feed(data, received_fds(ancillary))
        if message:
            return message


class Relay:
    """Stands between a program and a real server, and spoils the answer to one command."""

    def __init__(self, path: Path, server: Path) -> None:
        self.server = server
        self.command = 0
        self.spoil: Spoil = lambda answer: None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for number in range(2):
            client, _ = self._listener.accept()
            with client, socket.socket(socket.AF_UNIX) as server, suppress(ConnectionError):
                server.connect(str(self.server))
                # The first connection is that of `emuiavf exec` itself.
                self._relay(client, server, spoiled=number == 1)

    def _relay(self, client: socket.socket, server: socket.socket, spoiled: bool) -> None:
        asked, answered = Codec(), Codec()
        while message := read_message(client, asked):
            data = encode(message.msg_id, message.command, message.flags, message.payload)
            fds = message.take_fds()
            socket.send_fds(server, [data], fds)
            for fd in fds:
                os.close(fd)
            answer = read_message(server, answered)
            if answer is None:
                return
            if spoiled and answer.command == self.command:
                made = self.spoil(answer)
                if made is None:
                    return
                data, fds = made
            else:
                data = encode(
                    answer.msg_id, answer.command, answer.flags, answer.payload, answer.error
                )
                fds = answer.take_fds()
            socket.send_fds(client, [data], fds)
            for fd in fds:
                os.close(fd)
            answer.close()

    def close(self) -> None:
        # Whoever is awaited will not come.
        while self._thread.is_alive():
            with suppress(OSError), socket.socket(socket.AF_UNIX) as nobody:
                nobody.connect(self._listener.getsockname())
            self._thread.join(0.1)
        self._listener.close()


@pytest.fixture
def relay(sockets: list[Path], tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(tmp_path / "relay.sock", sockets[1])
    yield relay
    relay.close()


def run(relay_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*command(f"path={relay_path},addr=0000:3f:00.0"), *program(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done


def with_header(answer: Message, **changes: int) -> bytes:
    fields = {
        "msg_id": answer.msg_id,
        "command": answer.command,
        "size": 16 + len(answer.payload),
        "flags": answer.flags,
        "error": answer.error,
        **changes,
    }
    return struct.pack("<HHIII", *fields.values()) + answer.payload


@pytest.mark.parametrize(
    "changes",
    [
        {"msg_id": 999},
        {"command": 4},
        {"flags": 0},
        {"size": 15},
        {"size": 0},
        {"size": 0xFFFFFFFF},
        {"size": 1 << 20},
        {"flags": 0x21, "error": 5},
    ],
    ids=str,
)
def test_impossible_header_ends_the_connection(
    relay: Relay, tmp_path: Path, changes: dict[str, int]
) -> None:
    relay.command = Command.REGION_READ
    relay.spoil = lambda answer: (with_header(answer, **changes), [])
    done = run(
        tmp_path / "relay.sock",
        """
        v = Vfio()
        fails(errno.EIO, v.read, CONFIG, 4)
        fails(errno.EIO, fcntl.ioctl, v.device, RESET)
        assert ask(v.device, GET_INFO, "<IIII", 16, 0, 0, 0)[2] == 9
        v.close()
        """,
    )
    assert "the device is gone for this program" in done.stderr


def test_server_s_errno_passes_through(relay: Relay, tmp_path: Path) -> None:
    relay.command = Command.REGION_READ

    def refuse(answer: Message) -> tuple[bytes, list[int]]:
        return encode(answer.msg_id, answer.command, 0x21, error=71), []

    relay.spoil = refuse
    run(
        tmp_path / "relay.sock",
        """
        v = Vfio()
        for _ in range(2):
            fails(71, v.read, CONFIG, 4)
        """,
    )


@pytest.mark.parametrize("error", [0, 4096, 0xFFFFFFFF])
def test_errno_that_is_none_becomes_eio(relay: Relay, tmp_path: Path, error: int) -> None:
    relay.command = Command.REGION_READ
    relay.spoil = lambda answer: (
        struct.pack("<HHIII", answer.msg_id, answer.command, 16, 0x21, error),
        [],
    )
    run(tmp_path / "relay.sock", "v = Vfio()\nfails(errno.EIO, v.read, CONFIG, 4)")


def test_server_that_leaves(relay: Relay, tmp_path: Path) -> None:
    relay.command = Command.REGION_READ
    done = run(
        tmp_path / "relay.sock",
        """
        v = Vfio()
        memory = shared(4096)
        map_dma(v.container, memory, 0, 4096)
        bar = mmap.mmap(v.device, 0x20000)
        fails(errno.EIO, v.read, CONFIG, 4)
        # What needs no server goes on, and taking things down succeeds.
        bar[:4]
        map_dma(v.container, memory, 4096, 4096)
        assert unmap_dma(v.container, 0, 8192) == 8192
        v.close()
        """,
    )
    assert done.stderr.count("the device is gone") == 1


def test_unwanted_descriptors_are_closed(relay: Relay, tmp_path: Path) -> None:
    relay.command = Command.REGION_READ

    def add(answer: Message) -> tuple[bytes, list[int]]:
        return with_header(answer), [os.dup(0) for _ in range(5)]

    relay.spoil = add
    run(
        tmp_path / "relay.sock",
        """
        v = Vfio()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            assert v.read(CONFIG, 4) == bytes.fromhex("86808918")
        assert len(os.listdir("/proc/self/fd")) == before
        """,
    )


INFO = struct.Struct("<IIIIQQ")
SPARSE = struct.Struct("<HHIII")


def region(
    cap_offset: int = 32, next_cap: int = 0, count: int = 1, start: int = 0, size: int = 0x20000
) -> bytes:
    info = INFO.pack(64, 15, 0, cap_offset, 0x20000, 0)
    return info + SPARSE.pack(1, 1, next_cap, count, 0) + struct.pack("<QQ", start, size)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        region()[:31],
        region(count=2),
        region(count=0xFFFFFFFF),
        region(start=0x1000),
        region(start=1),
        region(size=0),
        region(size=0x40000),
        region(start=(1 << 64) - 4096, size=8192),
        region(cap_offset=60),
        INFO.pack(64, 15, 0, 32, 1 << 62, 0),
        INFO.pack(64, 7, 0, 0, 1 << 32, 0),
        INFO.pack(48, 15, 0, 32, 0x20000, 0) + struct.pack("<HHI", 7, 1, 32) * 2,
    ],
    ids=lambda payload: payload.hex()[-48:] or "empty",
)
def test_region_that_makes_no_sense_is_no_device(
    relay: Relay, tmp_path: Path, payload: bytes
) -> None:
    relay.command = Command.DEVICE_GET_REGION_INFO

    def spoil(answer: Message) -> tuple[bytes, list[int]]:
        answer.payload = payload
        return with_header(answer), answer.take_fds()

    relay.spoil = spoil
    done = run(tmp_path / "relay.sock", "fails(errno.EPROTO, Vfio)\n")
    assert "0000:3f:00.0: region 0" in done.stderr


def test_region_backed_by_too_little_is_no_device(relay: Relay, tmp_path: Path) -> None:
    relay.command = Command.DEVICE_GET_REGION_INFO

    def spoil(answer: Message) -> tuple[bytes, list[int]]:
        answer.payload = region()
        answer.close()
        fd = os.memfd_create("short")
        os.ftruncate(fd, 4096)
        return with_header(answer), [fd]

    relay.spoil = spoil
    run(tmp_path / "relay.sock", "fails(errno.EPROTO, Vfio)\n")


def test_device_that_is_none_can_be_tried_again(relay: Relay, tmp_path: Path) -> None:
    relay.command = Command.DEVICE_GET_INFO
    relay.spoil = lambda answer: (
        encode(answer.msg_id, answer.command, 1, struct.pack("<IIII", 16, 3, 1 << 31, 5)),
        [],
    )
    run(
        tmp_path / "relay.sock",
        """
        before = len(os.listdir("/proc/self/fd"))
        fails(errno.EPROTO, Vfio)
        # The container and the group of the attempt, and nothing else.
        assert len(os.listdir("/proc/self/fd")) == before + 2
        """,
    )
