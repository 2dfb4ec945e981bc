#!/usr/bin/env python3
"""Show the vfio-user messages between a client and a server.

Stands between the two: listens on one UNIX socket for the client, connects to
the server's socket, passes everything on (file descriptors too) and writes one
line per message:  seconds, direction (C>S or S>C), message number, command,
kind, whole size, number of descriptors, and the fields of the common messages.
Meant for looking, not for measuring: it costs a copy and a process switch per
message.
"""

import argparse
import array
import os
import select
import socket
import struct
import sys
import time

NAMES = {
    1: "VERSION",
    2: "DMA_MAP",
    3: "DMA_UNMAP",
    4: "DEVICE_GET_INFO",
    5: "DEVICE_GET_REGION_INFO",
    6: "DEVICE_GET_REGION_IO_FDS",
    7: "DEVICE_GET_IRQ_INFO",
    8: "DEVICE_SET_IRQS",
    9: "REGION_READ",
    10: "REGION_WRITE",
    11: "DMA_READ",
    12: "DMA_WRITE",
    13: "DEVICE_RESET",
    15: "REGION_WRITE_MULTI",
    16: "DEVICE_FEATURE",
    17: "MIG_DATA_READ",
    18: "MIG_DATA_WRITE",
}


def fields(command, body, reply):
    """The body of a message in words, as far as it is of a known form."""

    def u32(count, at=0):
        return struct.unpack_from("<%dI" % count, body, at)

    def u64(count, at=0):
        return struct.unpack_from("<%dQ" % count, body, at)

    try:
        if command == 1:
            return "%d.%d %s" % (*struct.unpack_from("<HH", body), body[4:].rstrip(b"\0").decode())
        if command == 2 and not reply:
            argsz, flags = u32(2)
            return "argsz=%d flags=%#x offset=%#x iova=%#x size=%#x" % (argsz, flags, *u64(3, 8))
        if command == 3:
            argsz, flags = u32(2)
            return "argsz=%d flags=%#x iova=%#x size=%#x" % (argsz, flags, *u64(2, 8))
        if command == 4:
            return "argsz=%d flags=%#x regions=%d irqs=%d" % u32(4)
        if command == 5:
            out = "argsz=%d flags=%#x index=%d cap_offset=%d" % u32(4)
            return out + " size={:#x} offset={:#x}".format(*u64(2, 16))
        if command == 7:
            return "argsz=%d flags=%#x index=%d count=%d" % u32(4)
        if command == 8 and not reply:
            return "argsz=%d flags=%#x index=%d start=%d count=%d" % u32(5)
        if command in (9, 10):
            (offset,) = u64(1)
            region, count = u32(2, 8)
            data = body[16 : 16 + 32].hex()
            return "region=%d offset=%#x count=%d %s" % (region, offset, count, data)
        if command == 15 and not reply:
            (count,) = u64(1)
            return "writes=%d" % count
        if command in (11, 12):
            return "address=%#x count=%d" % u64(2)
        if command == 16:
            return "argsz=%d flags=%#x" % u32(2)
    except (struct.error, UnicodeDecodeError):
        pass
    return body[:32].hex()


class Side:
    """One direction: cuts the stream into messages for the log."""

    def __init__(self, name, log, began):
        self.name, self.log, self.began = name, log, began
        self.data, self.fds = b"", 0

    def take(self, data, fds):
        """Log the messages that this piece of the stream completes.

        The kernel ends a read after the first write that carries descriptors,
        so what came along belongs to the last message begun in the piece.
        """
        self.data += data
        lines = []
        while len(self.data) >= 16:
            number, command, size, flags, error = struct.unpack_from("<HHIII", self.data)
            if len(self.data) < size or size < 16:
                break
            body, self.data = self.data[16:size], self.data[size:]
            reply = flags & 15 == 1
            kind = "reply" if reply else "command"
            if flags & 16:
                kind += ",no-reply"
            if flags & 32:
                kind += ",error=%d" % error
            last = fds if not self.data else 0
            lines.append(
                "%9.4f %s %5d %-24s %-16s size=%-5d fds=%d  %s\n"
                % (
                    time.monotonic() - self.began,
                    self.name,
                    number,
                    NAMES.get(command, str(command)),
                    kind,
                    size,
                    self.fds + last,
                    fields(command, body, reply),
                )
            )
            self.fds = 0
        if self.data:
            self.fds += fds
        self.log.write("".join(lines))
        self.log.flush()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("listen", help="socket to make, for the client")
    parser.add_argument("server", help="socket of the server")
    parser.add_argument("-o", "--output", help="file for the lines (default: standard output)")
    args = parser.parse_args()
    log = open(args.output, "w") if args.output else sys.stdout
    if os.path.exists(args.listen):
        os.unlink(args.listen)
    entry = socket.socket(socket.AF_UNIX)
    entry.bind(args.listen)
    entry.listen(1)
    client, _ = entry.accept()
    began = time.monotonic()
    server = socket.socket(socket.AF_UNIX)
    server.connect(args.server)
    ways = {client: (server, Side("C>S", log, began)), server: (client, Side("S>C", log, began))}
    while True:
        for sock in select.select(list(ways), [], [])[0]:
            data, extra, _flags, _addr = sock.recvmsg(1 << 20, socket.CMSG_SPACE(64 * 4))
            fds = array.array("i")
            for level, kind, raw in extra:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
            if not data:
                log.write(f"{time.monotonic() - began:9.4f} {ways[sock][1].name} closed\n")
                log.flush()
                return
            other, side = ways[sock]
            side.take(data, len(fds))
            pass_on = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
            sent = other.sendmsg([data], pass_on)
            if sent < len(data):
                other.sendall(data[sent:])
            for fd in fds:
                os.close(fd)


if __name__ == "__main__":
    main()
