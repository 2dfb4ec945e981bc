"""Real TAP interfaces with the kernel's own traffic, and how opening one fails."""

import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

import emuiavf.ports  # noqa: F401  (registers the kinds)
from emuiavf.datapath.engine import Engine
from emuiavf.emudev import vdev
from emuiavf.errors import ConfigError
from emuiavf.ports import _tap, tun
from emuiavf.ports._tap import Tap
from emuiavf.ports.registry import kinds
from emuiavf.stats import RX_COUNTERS, TX_COUNTERS

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def options(text: str) -> dict[str, object]:
    return vdev.resolve(vdev.parse(text), kinds["tap"].options)


def make_tap(text: str) -> Tap:
    port = kinds["tap"].create("tap0", options(text), None)  # type: ignore[arg-type]
    assert isinstance(port, Tap)
    return port


# --- Options


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tap0", "tap0: a TAP is told by one of ifname= and fd="),
        ("tap0,ifname=x,fd=3", "tap0: a TAP is told by one of ifname= and fd="),
        ("tap0,mtu=12,ifname=x", "tap0: mtu=12: at least 68"),
        ("tap0,speed=1", "tap0: no option 'speed'"),
        ("tap0,fd=0x8000", "tap0: fd=32768: is not a TAP"),
        ("tap0,ifname=a-name-that-is-too-long", "ifname=a-name-that-is-too-long: at most 15"),
    ],
)
def test_wrong_options_are_refused_in_words(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_tap(text)


@pytest.mark.parametrize("path", ["/dev/null", "/etc/passwd"])
def test_descriptor_of_something_else_is_refused(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(ConfigError, match=f"tap0: fd={fd}: is not a TAP"):
        make_tap(f"tap0,fd={fd}")
    os.close(fd)


# --- Real interfaces


@contextmanager
def own_namespace() -> Iterator[int]:
    """A network namespace; the calling thread is in it inside the block."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip("needs root (network namespaces)")
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)
            assert libc.setns(home, CLONE_NEWNET) == 0
    finally:
        os.close(home)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def open_device(**more: str) -> Tap:
    if not os.access(tun.DEVICE, os.W_OK):
        pytest.skip(f"needs {tun.DEVICE}")
    return make_tap(",".join(["tap0", "ifname=emu%d", *[f"{k}={v}" for k, v in more.items()]]))


@dataclass
class Host:
    """One network namespace with one TAP interface."""

    port: Tap
    namespace: int

    def run(self, function: Callable[[], object]) -> object:
        """Call it in the namespace (in a thread of its own)."""
        results: list[object] = []

        def call() -> None:
            assert libc.setns(self.namespace, CLONE_NEWNET) == 0
            results.append(function())

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return results[0]


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts whose interfaces the engine connects: 10.9.0.1 and 10.9.0.2, fd09::1 and ::2."""
    made = []
    for number in (1, 2):
        with own_namespace() as namespace:
            port = open_device()
            ip("addr", "add", f"10.9.0.{number}/24", "dev", port.ifname)
            ip("addr", "add", f"fd09::{number}/64", "dev", port.ifname, "nodad")
            made.append(Host(port, os.dup(namespace)))
    engine = Engine()
    for host in made:
        engine.add(host.port)
    engine.connect(*[host.port for host in made])
    engine.start()
    yield made[0], made[1]
    engine.stop()
    for host in made:
        host.port.close()
        os.close(host.namespace)


def transfer(sender: Host, receiver: Host, family: int, address: str, size: int) -> bytes:
    """Send `size` bytes over TCP; returns what arrived."""

    def listening() -> socket.socket:
        server = socket.socket(family)
        server.settimeout(10)
        server.bind((address, 7777))
        server.listen()
        return server

    def connected() -> socket.socket:
        return socket.create_connection((address, 7777), timeout=10)

    server = receiver.run(listening)
    client = sender.run(connected)
    assert isinstance(server, socket.socket)
    assert isinstance(client, socket.socket)
    arrived, _ = server.accept()
    arrived.settimeout(10)
    data = pattern(size)

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    received = bytearray()
    while piece := arrived.recv(1 << 20):
        received += piece
    thread.join()
    for end in (server, client, arrived):
        end.close()
    return bytes(received)


def pattern(size: int) -> bytes:
    return (b"".join(number.to_bytes(4, "big") for number in range(10000)) * (size // 40000 + 1))[
        :size
    ]


@pytest.mark.root
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "10.9.0.2"), (socket.AF_INET6, "fd09::2")]
)
def test_tcp_passes_with_large_frames(hosts: tuple[Host, Host], family: int, address: str) -> None:
    near, far = hosts
    size = 8_000_000
    assert transfer(near, far, family, address, size) == pattern(size)
    row = dict(zip(TX_COUNTERS, near.port.rows[1].tolist(), strict=False))
    assert row["bytes"] > size
    # Frames larger than the MTU: nobody has cut them on the way.
    assert row["bytes"] / row["packets"] > 2000
    assert row["errors"] == 0
    assert far.port.rows[0][RX_COUNTERS.index("discards")] == 0


@pytest.mark.root
def test_udp_with_segmentation_arrives_as_datagrams(hosts: tuple[Host, Host]) -> None:
    near, far = hosts

    def bound() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.settimeout(10)
        server.bind(("10.9.0.2", 7777))
        return server

    def sent() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.SOL_UDP, 103, 1000)  # UDP_SEGMENT
            client.sendto(pattern(9500), ("10.9.0.2", 7777))

    server = far.run(bound)
    assert isinstance(server, socket.socket)
    near.run(sent)
    received = [server.recv(65536) for _ in range(10)]
    server.close()
    assert [len(datagram) for datagram in received] == [1000] * 9 + [500]
    assert b"".join(received) == pattern(9500)


@pytest.mark.root
def test_interface_that_goes_down_is_counted_not_fatal(hosts: tuple[Host, Host]) -> None:
    near, far = hosts
    far.run(lambda: ip("link", "set", far.port.ifname, "down"))

    def sent() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((near.port.ifname, 0))
            raw.send(b"\xff" * 60)

    near.run(sent)
    deadline = time.monotonic() + 5
    while far.port.rows[0][RX_COUNTERS.index("queue_off")] == 0:
        assert time.monotonic() < deadline
    far.run(lambda: ip("link", "set", far.port.ifname, "up"))
    assert transfer(near, far, socket.AF_INET, "10.9.0.2", 1000) == pattern(1000)


@pytest.mark.root
def test_mtu_is_set_and_interface_brought_up() -> None:
    with own_namespace():
        port = open_device(mtu="9000")
        shown = subprocess.run(
            ["ip", "link", "show", port.ifname], capture_output=True, text=True, check=True
        ).stdout
        port.close()
    assert "mtu 9000" in shown
    assert ",UP" in shown


@pytest.mark.root
def test_interface_in_use_is_refused() -> None:
    with own_namespace():
        port = open_device()
        with pytest.raises(ConfigError, match=f"ifname={port.ifname}: in use"):
            make_tap(f"tap1,ifname={port.ifname}")
        port.close()


@pytest.mark.root
def test_interface_made_before_is_taken_over_and_stays() -> None:
    with own_namespace():
        open_device().close()  # skips where there is no TAP at all
        ip("tuntap", "add", "kept0", "mode", "tap", "multi_queue")
        make_tap("tap0,ifname=kept0").close()
        make_tap("tap0,ifname=kept0,up=off").close()
        ip("link", "show", "kept0")


@pytest.mark.root
def test_inherited_descriptor_is_taken_over() -> None:
    with own_namespace():
        first = open_device()
        inherited = os.dup(first.fd)
        first.close()
        port = _tap.create("tap0", options(f"tap0,fd={inherited}"))
        assert port.ifname == first.ifname
        assert not os.get_blocking(inherited)
        port.close()


@pytest.mark.root
def test_interface_that_is_no_tap_is_refused() -> None:
    with own_namespace():
        open_device().close()
        with pytest.raises(ConfigError, match="ifname=lo: not a TAP"):
            make_tap("tap0,ifname=lo")
