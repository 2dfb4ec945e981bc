"""The control socket under well-behaved and hostile clients."""

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emuiavf.control.rpc import INVALID_REQUEST, MAX_REQUEST
from emuiavf.control.server import MAX_CLIENTS, ControlServer
from emuiavf.errors import ConfigError
from emuiavf.loop import Loop

TIMEOUT_S = 10.0


class Bench:
    """A server whose answer is what it was asked, backwards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[bytes] = []
        self.loop = Loop()
        self.server = ControlServer(self.loop, path, self.respond)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def respond(self, data: bytes) -> bytes:
        self.asked.append(data)
        return b"" if data == b"quiet" else data[::-1]

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.path))
        client.settimeout(TIMEOUT_S)
        return client

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.stop()
            self.thread.join()
            self.server.close()
            self.loop.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "control")
    yield made
    made.stop()


def read_to_end(client: socket.socket) -> bytes:
    data = b""
    while chunk := client.recv(1 << 16):
        data += chunk
    return data


def read_line(client: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        chunk = client.recv(1 << 16)
        assert chunk
        data += chunk
    return data


def test_only_the_owner_may_open_it(bench: Bench) -> None:
    assert stat.S_IMODE(os.stat(bench.path).st_mode) == 0o600


def test_mode_is_not_what_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0)
    made = Bench(tmp_path / "open")
    os.umask(before)
    mode = stat.S_IMODE(os.stat(made.path).st_mode)
    made.stop()
    assert mode == 0o600


def test_each_line_is_answered_with_a_line(bench: Bench) -> None:
    with bench.connect() as client:
        for text in (b"abc", b"defg"):
            client.sendall(text + b"\n")
            assert read_line(client) == text[::-1] + b"\n"


def test_requests_sent_at_once_are_answered_in_their_order(bench: Bench) -> None:
    with bench.connect() as client:
        numbers = [b"%d" % number for number in range(10, 60)]
        client.sendall(b"\n".join(numbers))
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client).split() == [number[::-1] for number in numbers]


def test_request_in_pieces(bench: Bench) -> None:
    with bench.connect() as client:
        for piece in b"abcdef\n":
            client.sendall(bytes([piece]))
        assert read_line(client) == b"fedcba\n"


def test_last_request_may_lack_its_newline(bench: Bench) -> None:
    with bench.connect() as client:
        client.sendall(b"abc\nxyz")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"cba\nzyx\n"


def test_empty_lines_and_notifications_are_not_answered(bench: Bench) -> None:
    with bench.connect() as client:
        client.sendall(b"\n  \nquiet\nabc\n")
        assert read_line(client) == b"cba\n"
    assert bench.asked == [b"quiet", b"abc"]


def test_largest_request_passes(bench: Bench) -> None:
    with bench.connect() as client:
        client.sendall(b"x" * MAX_REQUEST + b"\n")
        assert len(read_line(client)) == MAX_REQUEST + 1


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_larger_request_ends_the_connection(bench: Bench, end: bytes) -> None:
    with bench.connect() as client:
        client.sendall(b"x" * (MAX_REQUEST + 1) + end)
        answer = json.loads(read_to_end(client))
    assert answer["error"]["code"] == INVALID_REQUEST
    assert bench.asked == []


def test_client_that_does_not_read_is_not_served_further(bench: Bench) -> None:
    with bench.connect() as deaf, bench.connect() as other:
        deaf.setblocking(False)
        request = b"x" * 60_000 + b"\n"
        sent = 0
        try:
            while sent < 64 << 20:
                sent += deaf.send(request)
        except BlockingIOError:
            pass
        other.sendall(b"abc\n")
        assert read_line(other) == b"cba\n"
    assert sent < 8 << 20


def test_client_that_leaves_before_its_answer(bench: Bench) -> None:
    for _ in range(50):
        with bench.connect() as client:
            client.sendall(b"x" * 1000 + b"\n" + b"y" * 10)
    with bench.connect() as client:
        client.sendall(b"abc\n")
        assert read_line(client) == b"cba\n"


def test_more_clients_than_are_served_wait_their_turn(bench: Bench) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(bench.connect()) for _ in range(MAX_CLIENTS + 2)]
        for client in clients[:MAX_CLIENTS]:
            client.sendall(b"abc\n")
            assert read_line(client) == b"cba\n"
        late = clients[-1]
        late.sendall(b"late\n")
        clients[0].close()
        clients[1].close()
        assert read_line(late) == b"etal\n"


def test_close_removes_the_file_and_sends_clients_away(bench: Bench) -> None:
    with bench.connect() as client:
        client.sendall(b"abc\n")
        read_line(client)
        bench.stop()
        assert read_to_end(client) == b""
    assert list(bench.path.parent.iterdir()) == []


def test_path_of_a_live_process_is_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=f"pid {os.getpid()}"):
        ControlServer(bench.loop, bench.path, bench.respond)


def test_stale_file_is_replaced_and_another_is_not(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "control"))
    stale.close()
    Bench(tmp_path / "control").stop()
    (tmp_path / "file").write_text("precious")
    loop = Loop()
    with pytest.raises(ConfigError, match="not a socket"):
        ControlServer(loop, tmp_path / "file", lambda data: data)
    loop.close()
    assert (tmp_path / "file").read_text() == "precious"
