"""A wire's DHCP, HTTP and TFTP servers, for a guest that boots from the network.

A program of its own (`python -m tests.vm.harness.netboot ...`), to be run in a network namespace.
It leases one address to whoever asks, and serves the files it was given.  What it did comes out
as JSON lines: first {"event": "ready"}, then one line per DHCP reply and per file sent.
"""

import argparse
import http.server
import ipaddress
import json
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.vm.harness import tftp
from tests.vm.harness.netns import Namespace

# RFC 2131, figure 1: everything before the options.
HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
COOKIE = bytes((99, 130, 83, 99))
PAD, MASK, ROUTER, LEASE_TIME, MESSAGE, SERVER, BOOT_FILE, END = 0, 1, 3, 51, 53, 54, 67, 255
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
ANSWERS = {DISCOVER: OFFER, REQUEST: ACK}
NAMES = {OFFER: "offer", ACK: "ack"}


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def options(data: bytes) -> dict[int, bytes]:
    """The options of a message by their number; ends where they stop making sense."""
    found = {}
    at = 0
    while at < len(data) and data[at] != END:
        if data[at] == PAD:
            at += 1
            continue
        if at + 2 > len(data):
            break
        size = data[at + 1]
        found[data[at]] = data[at + 2 : at + 2 + size]
        at += 2 + size
    return found


def answer(
    message: bytes, server: ipaddress.IPv4Interface, lease: ipaddress.IPv4Address, boot_file: str
) -> tuple[int, str, bytes] | None:
    """What to say to a DHCP message: type, the client's MAC address and the reply."""
    if len(message) < HEADER.size + 4 or message[HEADER.size : HEADER.size + 4] != COOKIE:
        return None
    op, htype, hlen, _, xid, _, flags, _, _, _, giaddr, chaddr, _, _ = HEADER.unpack_from(message)
    asked = options(message[HEADER.size + 4 :])
    kind = ANSWERS.get(int.from_bytes(asked.get(MESSAGE, b""), "big"))
    if op != 1 or hlen != 6 or kind is None:
        return None
    if asked.get(SERVER, server.ip.packed) != server.ip.packed:
        return None  # the client chose another server
    fixed = (2, htype, hlen, 0, xid, 0, flags, bytes(4), lease.packed, server.ip.packed, giaddr)
    reply = HEADER.pack(*fixed, chaddr, b"", b"") + COOKIE
    for number, value in (
        (MESSAGE, bytes((kind,))),
        (SERVER, server.ip.packed),
        (LEASE_TIME, struct.pack("!I", 3600)),
        (MASK, server.netmask.packed),
        (ROUTER, server.ip.packed),
        (BOOT_FILE, boot_file.encode()),
    ):
        reply += bytes((number, len(value))) + value
    return kind, chaddr[:6].hex(":"), reply + bytes((END,))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, Path] = {}

    def do_GET(self) -> None:
        path = self.files.get(self.path.lstrip("/"))
        if path is None:
            say(event="http", path=self.path, bytes=0, status=404)
            self.send_error(404)
            return
        with path.open("rb") as source:
            size = path.stat().st_size
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            shutil.copyfileobj(source, self.wfile)
        say(event="http", path=self.path, bytes=size, status=200)

    def log_message(self, format: str, *args: object) -> None:
        pass  # do_GET says what happened


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ifname")
    parser.add_argument("server", type=ipaddress.IPv4Interface, help="our address, with /bits")
    parser.add_argument("lease", type=ipaddress.IPv4Address, help="the client's address")
    parser.add_argument(
        "boot_file", help="what the client shall load: a URL, or a name of a file for TFTP"
    )
    parser.add_argument("files", nargs="+", metavar="NAME=PATH")
    args = parser.parse_args()
    Handler.files = {name: Path(path) for name, _, path in (f.partition("=") for f in args.files)}
    web = http.server.ThreadingHTTPServer((str(args.server.ip), 80), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()

    def sent(name: str, size: int) -> None:
        say(event="tftp", path=name, bytes=size)

    serve = (str(args.server.ip), Handler.files, sent)
    threading.Thread(target=tftp.serve, args=serve, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, args.ifname.encode())
        sock.bind(("", 67))
        say(event="ready")
        while True:
            result = answer(sock.recv(2048), args.server, args.lease, args.boot_file)
            if result:
                kind, mac, reply = result
                # The client has no address yet, so it cannot answer ARP.
                sock.sendto(reply, ("255.255.255.255", 68))
                say(event="dhcp", type=NAMES[kind], mac=mac)


class NetBoot:
    """The servers running in a namespace, until the block ends."""

    def __init__(
        self,
        netns: Namespace,
        ifname: str,
        server: str,
        lease: str,
        boot_file: str,
        files: dict[str, Path],
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        """`on_event` is called for each, in a thread of ours."""
        self.netns = netns
        self.words = [ifname, server, lease, boot_file]
        self.words += [f"{name}={path}" for name, path in files.items()]
        self._on_event = on_event
        self._events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self.process = self.netns.popen(
            sys.executable, "-m", "tests.vm.harness.netboot", *self.words,
            cwd=Path(__file__).resolve().parents[3],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], 20)[0] or (
            "ready" not in self.process.stdout.readline()
        ):
            self.process.kill()
            raise RuntimeError("the boot servers did not get ready")
        self._reader.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.events()

    def events(self) -> list[dict[str, Any]]:
        """Ends the servers; returns what they did, in order."""
        self.process.kill()
        self._reader.join()
        self.process.wait()
        return self._events

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                event = json.loads(line)
                self._events.append(event)
                self._on_event(event)


if __name__ == "__main__":
    sys.exit(main())
