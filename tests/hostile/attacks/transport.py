"""Malformed vfio-user: headers, sizes, descriptors, order; clients that leave or do not read."""

import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Sequence

from emuiavf.vfio_user import negotiation, wire
from emuiavf.vfio_user.channel import Refused
from emuiavf.vfio_user.client import Client
from emuiavf.vfio_user.codec import Message, encode
from emuiavf.vfio_user.fd_socket import close_fds
from emuiavf.vfio_user.wire import Command
from tests.hostile.attacks import Target, attack
from tests.hostile.intruder import Ram

COMMANDS = tuple(Command)
# The fixed part of each request; a shorter payload is refused, whatever it holds.
FIXED = {
    Command.DMA_MAP: wire.DmaMap.SIZE,
    Command.DMA_UNMAP: wire.DmaUnmap.SIZE,
    Command.DEVICE_GET_INFO: wire.DeviceInfo.SIZE,
    Command.DEVICE_GET_REGION_INFO: wire.RegionInfo.SIZE,
    Command.DEVICE_GET_REGION_IO_FDS: wire.RegionIoFds.SIZE,
    Command.DEVICE_GET_IRQ_INFO: wire.IrqInfo.SIZE,
    Command.DEVICE_SET_IRQS: wire.SetIrqs.SIZE,
    Command.REGION_READ: wire.RegionAccess.SIZE,
    Command.REGION_WRITE: wire.RegionAccess.SIZE,
}


def client_of(target: Target, *, negotiate: bool = True) -> Client:
    """The next client, as soon as there is room in the queue of those who wait."""
    while True:
        try:
            return Client(target.path, timeout_s=20, negotiate=negotiate)
        except BlockingIOError:
            os.sched_yield()


def answer(client: Client, data: bytes, fds: Sequence[int] = ()) -> Message:
    """What the server says to these bytes."""
    client.send_raw(data, fds)
    return client.receive()


def is_refusal(reply: Message, code: int = errno.EINVAL) -> bool:
    close_fds(reply.take_fds())
    return (reply.flags, reply.error, reply.payload) == (
        wire.TYPE_REPLY | wire.ERROR,
        code,
        b"",
    )


def is_closed(client: Client) -> bool:
    try:
        client.receive()
    except ConnectionError:
        return True
    return False


def still_answers(client: Client) -> bool:
    return client.read32(7, 0) == 0x1889_8086


def errno_of(client: Client, command: int, payload: bytes, fds: Sequence[int] = ()) -> int:
    """0, or what the command is refused with."""
    try:
        close_fds(client.request(command, payload, fds).fds)
    except Refused as refused:
        return refused.errno
    return 0


@attack
def sizes_that_cannot_be(target: Target) -> None:
    """The stream cannot be followed any more: an error, then the end of the connection."""
    limit = wire.MAX_MSG_SIZE
    for size in (0, 1, 15, limit + 1, 1 << 31, (1 << 32) - 1):
        with client_of(target) as client:
            reply = answer(client, struct.pack("<HHIII", 7, Command.REGION_READ, size, 0, 0))
            assert is_refusal(reply)
            assert reply.msg_id == 7
            assert is_closed(client)


@attack
def types_and_flags_that_are_none(target: Target) -> None:
    with client_of(target) as client:
        for flags in (*range(1, 16), 0x20, 0x21, 0x40, 1 << 31, 0xFFFF_FFE0):
            data = struct.pack("<HHIII", 1, Command.DEVICE_GET_INFO, 32, flags, 0) + bytes(16)
            client.send_raw(data)
            if not flags & wire.NO_REPLY:
                assert is_refusal(client.receive()), hex(flags)
        assert still_answers(client)


@attack
def commands_that_are_not_served(target: Target) -> None:
    with client_of(target) as client:
        served = set(FIXED) | {Command.DEVICE_RESET}
        for command in {*range(40), 0x7FFF, 0xFFFF} - served:
            for payload in (b"", bytes(8), bytes(64)):
                assert errno_of(client, command, payload) == errno.EINVAL, command
        assert still_answers(client)


@attack
def payloads_that_are_too_short(target: Target) -> None:
    with client_of(target) as client:
        for command, size in FIXED.items():
            for length in range(size):
                assert errno_of(client, command, b"\xff" * length) == errno.EINVAL, command
        assert still_answers(client)


@attack
def fields_at_their_limits(target: Target) -> None:
    """All ones, and every field alone at the edges of its range."""
    edges = (b"\xff" * 8, b"\x00\x00\x00\x00\x00\x00\x00\x80", b"\xff\xff\xff\xff\x00\x00\x00\x00")
    with client_of(target) as client:
        for command, size in FIXED.items():
            if command is not Command.DEVICE_GET_INFO:  # which has no field to be wrong
                assert errno_of(client, command, b"\xff" * size) != 0, command
            for at in range(0, size, 4):
                for edge in edges:
                    payload = bytearray(struct.pack("<I", size).ljust(size, b"\0"))
                    payload[at : at + 8] = edge[: size - at]
                    # Some of these are legal; what counts is that there is one answer to each.
                    errno_of(client, command, bytes(payload))
        assert still_answers(client)


@attack
def regions_beyond_their_end(target: Target) -> None:
    with client_of(target) as client:
        sizes = [client.region_info(index).size for index in range(9)]
        for index, size in enumerate(sizes):
            for offset, count in (
                (size, 1),
                (size - 1 if size else 0, 2),
                ((1 << 64) - 1, 1),
                ((1 << 64) - 4, 8),
                (0, size + 1),
                (0, 0xFFFF_FFFF),
            ):
                head = struct.pack("<QII", offset & (1 << 64) - 1, index, count)
                assert errno_of(client, Command.REGION_READ, head) == errno.EINVAL
                data = bytes(min(count, 64))
                assert errno_of(client, Command.REGION_WRITE, head + data) == errno.EINVAL
        for index in (9, 255, 0xFFFF_FFFF):
            head = struct.pack("<QII", 0, index, 4)
            assert errno_of(client, Command.REGION_READ, head) == errno.EINVAL
            assert errno_of(client, Command.REGION_WRITE, head + bytes(4)) == errno.EINVAL
        # What `count` says and what comes are two things.
        for length in (0, 3, 5, 4096):
            head = struct.pack("<QII", 0, 0, 4)
            assert errno_of(client, Command.REGION_WRITE, head + bytes(length)) == errno.EINVAL
        assert still_answers(client)


@attack
def descriptors_nobody_asked_for(target: Target) -> None:
    """With every command, more than are ever allowed, and with bytes of a payload."""
    ram = Ram(4096)
    with client_of(target) as client:
        for command in {*COMMANDS} - {Command.DEVICE_RESET}:
            for count in (1, 2, 16, 100, 253):
                errno_of(client, command, bytes(FIXED.get(command, 8)), (ram.fd,) * count)
        assert errno_of(client, Command.DEVICE_RESET, b"", (ram.fd,) * 253) in (0, errno.EINVAL)
        mapping = struct.pack("<IIQQQ", 32, 3, 0, 0x10_0000, 4096)
        assert errno_of(client, Command.DMA_MAP, mapping, (ram.fd,) * 2) == errno.EINVAL
        data = encode(9, Command.DEVICE_GET_INFO, 0, struct.pack("<IIII", 16, 0, 0, 0))
        for at in range(1, len(data)):
            client.send_raw(data[:at])
            client.send_raw(data[at:], (ram.fd,) * 3)
            close_fds(client.receive().take_fds())
        assert still_answers(client)
    ram.close()


@attack
def descriptors_that_are_no_memory(target: Target) -> None:
    """DMA_MAP of what cannot be mapped, or not as asked; each is refused and closed."""
    reader, writer = os.pipe()
    ends = socket.socketpair()
    sealed = os.memfd_create("hostile-sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(sealed, 1 << 20)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    opened = [
        os.open(".", os.O_RDONLY),
        os.open(".", os.O_PATH),
        os.open("/proc/self/status", os.O_RDONLY),
        os.open("/dev/null", os.O_RDWR),
        os.eventfd(0),
        os.open("/proc/self/exe", os.O_RDONLY),
        sealed,
        reader,
        writer,
    ]
    with client_of(target) as client:
        for fd in (*opened, *(end.fileno() for end in ends)):
            mapping = struct.pack("<IIQQQ", 32, 3, 0, 0x10_0000, 1 << 20)
            assert errno_of(client, Command.DMA_MAP, mapping, (fd,)) != 0, os.readlink(
                f"/proc/self/fd/{fd}"
            )
        assert still_answers(client)
    close_fds(opened)
    for end in ends:
        end.close()


@attack
def maps_that_cannot_be(target: Target) -> None:
    """Ranges that wrap, overlap, are not aligned or not backed."""
    ram = Ram(1 << 20)
    top = 1 << 64
    with client_of(target) as client:
        client.dma_map(0x10_0000, 0x10000, ram.fd)
        for offset, iova, size, expected in (
            (0, 0x10_0000, 0x10000, errno.EEXIST),
            (0, 0x10_F000, 0x2000, errno.EEXIST),
            (0, 0xF_F000, 0x2000, errno.EEXIST),
            (0, 0x20_0000, 0, errno.EINVAL),
            (0, 0x20_0001, 0x1000, errno.EINVAL),
            (0, 0x20_0000, 0x1001, errno.EINVAL),
            (1, 0x20_0000, 0x1000, errno.EINVAL),
            (0, 0x20_0000, 2 << 20, errno.EINVAL),
            (1 << 20, 0x20_0000, 0x1000, errno.EINVAL),
            (top - 4096, 0x20_0000, 0x1000, errno.EINVAL),
            ((1 << 63) - 4096, 0x20_0000, 0x2000, errno.EINVAL),
            (0, top - 4096, 0x2000, errno.EINVAL),
            (0, 0, 8 << 40 | 4096, errno.ENOSPC),
            (0, 0, top - 4096, errno.ENOSPC),
        ):
            mapping = struct.pack("<IIQQQ", 32, 3, offset, iova, size)
            got = errno_of(client, Command.DMA_MAP, mapping, (ram.fd,))
            assert got == expected, (hex(offset), hex(iova), hex(size), got)
        unmap = struct.pack("<IIQQ", 24, 0, 0x70_0000, 0x1000)
        assert errno_of(client, Command.DMA_UNMAP, unmap) == errno.ENOENT
        assert still_answers(client)
    ram.close()


@attack
def negotiations_that_fail(target: Target) -> None:
    """No VERSION, the wrong one, or JSON that is none: an error and the end."""
    deep = b'{"a":' * 5000
    versions = [
        b"",
        b"\0\0",
        struct.pack("<HH", 1, 0),
        struct.pack("<HH", 0xFFFF, 0xFFFF),
        struct.pack("<HH", 0, 1) + b"{",
        struct.pack("<HH", 0, 1) + b"{\0",
        struct.pack("<HH", 0, 1) + b"[]\0",
        struct.pack("<HH", 0, 1) + b'{"capabilities":1}\0',
        struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":"x"}}\0',
        struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_data_xfer_size":-1}}\0',
        struct.pack("<HH", 0, 1) + b'{"capabilities":{"pgsizes":1e400}}\0',
        struct.pack("<HH", 0, 1) + b"\xff\xfe\0",
        struct.pack("<HH", 0, 1) + deep + b"\0",
        struct.pack("<HH", 0, 1) + b"9" * 9000 + b"\0",
    ]
    for payload in versions:
        with client_of(target, negotiate=False) as client:
            reply = answer(client, encode(1, Command.VERSION, 0, payload))
            assert is_refusal(reply), payload[:60]
            assert is_closed(client)
    for command in {*COMMANDS} - {Command.VERSION}:
        with client_of(target, negotiate=False) as client:
            assert is_refusal(answer(client, encode(1, command, 0, bytes(32))))
            assert is_closed(client)


@attack
def leaving_at_any_byte(target: Target) -> None:
    """Half of a VERSION, of a DMA_MAP with its memory, of a SET_IRQS with its eventfds."""
    ram, event = Ram(4096), os.eventfd(0, os.EFD_NONBLOCK)
    version = encode(1, Command.VERSION, 0, negotiation.offer(1))
    mapping = struct.pack("<IIQQQ", 32, 3, 0, 0x10_0000, 4096)
    irqs = struct.pack("<IIIII", 20, 0x24, 2, 0, 3)
    write = struct.pack("<QII", 4, 7, 2) + b"\x06\x00"
    for at in range(1, len(version)):
        with client_of(target, negotiate=False) as client:
            client.send_raw(version[:at])
    for command, payload, fds in (
        (Command.DMA_MAP, mapping, (ram.fd,)),
        (Command.DEVICE_SET_IRQS, irqs, (event,) * 3),
        (Command.REGION_WRITE, write, ()),
    ):
        data = encode(3, command, 0, payload)
        for at in range(1, len(data) + 1):
            with client_of(target) as client:
                client.send_raw(data[:at], fds)
    os.close(event)
    ram.close()


@attack
def a_client_that_does_not_read(target: Target) -> None:
    """Requests without end, answers never taken: only this client is kept waiting."""
    client = Client(target.path, timeout_s=0.2)
    request = struct.pack("<QII", 0, 7, 4096)
    sock = socket.socket(fileno=os.dup(client.fileno()))
    sock.setblocking(False)
    sent, data = 0, encode(1, Command.REGION_READ, 0, request)
    stalled = 0
    while stalled < 3 and sent < 100_000:
        try:
            sock.sendall(data)
            sent += 1
        except BlockingIOError:
            # A part of a message may have gone: nobody will ever read what it makes.
            _, writable, _ = select.select([], [sock], [], 0.2)
            stalled = 0 if writable else stalled + 1
    assert stalled, f"{sent} requests were taken without an answer being read"
    sock.close()
    client.close()


@attack
def answers_nobody_wants(target: Target) -> None:
    """Failing commands with NO_REPLY stay without an answer."""
    with client_of(target) as client:
        for command in COMMANDS:
            client.post(command, b"\xff" * 20)
        client.post(Command.REGION_READ, struct.pack("<QII", 0, 7, 4096))
        assert still_answers(client)


@attack
def comings_and_goings(target: Target) -> None:
    """Clients that connect and leave at once, before or after VERSION, with maps and without."""
    ram = Ram(4096)
    for number in range(300):
        with client_of(target, negotiate=number % 3 != 0) as client:
            if number % 3 == 1:
                client.dma_map(0x10_0000, 4096, ram.fd)
    ram.close()
