"""The client's side of vfio-user: what a VMM or a user-space driver needs of a device.

    with Client("vf0.sock") as device:
        device.dma_map(0x100000, len(memory), fd)
        device.write32(0, 0x2000, 7)

Requests may be pipelined (`submit`, then `Pending.wait`) and region writes posted.  One thread
at a time.  Specification: vfio-user.
"""

import contextlib
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from emuiavf.emudev.info import DmaProt, MmapArea, RegionInfo
from emuiavf.errors import EmuIavfError, PeerError
from emuiavf.vfio_user import negotiation, wire
from emuiavf.vfio_user.codec import Codec, Message, encode, encode_error
from emuiavf.vfio_user.connection import ANCILLARY_SIZE, received_fds, send_once
from emuiavf.vfio_user.wire import Command, IrqIndex, IrqSet

_U32 = struct.Struct("<I")
_TIMEVAL = struct.Struct("@ll")
_READ_WRITE = DmaProt.READ | DmaProt.WRITE


class Refused(EmuIavfError):
    """The server answered with an error; `errno` says which."""

    def __init__(self, command: int, errno: int) -> None:
        name = Command(command).name if command in list(Command) else f"command {command}"
        super().__init__(f"{name}: {os.strerror(errno)}")
        self.command = command
        self.errno = errno


@dataclass(frozen=True)
class Reply:
    """A successful answer; its fds belong to the receiver."""

    payload: bytes
    fds: tuple[int, ...] = ()


class Pending:
    """A request whose answer is still to come."""

    __slots__ = ("_client", "command", "msg_id")

    def __init__(self, client: "Client", msg_id: int, command: int) -> None:
        self._client = client
        self.msg_id = msg_id
        self.command = command

    def wait(self) -> Reply:
        """The answer.  Refused for an error reply, TimeoutError, ConnectionError."""
        message = self._client._wait_for(self.msg_id)
        if message.flags & wire.ERROR:
            message.close()
            raise Refused(self.command, message.error)
        return Reply(message.payload, tuple(message.take_fds()))


class Client:
    """One connection to one device."""

    def __init__(
        self,
        where: str | os.PathLike[str] | socket.socket,
        *,
        timeout_s: float = 5.0,
        minor: int = wire.MINOR,
        negotiate: bool = True,
    ) -> None:
        """Connect and agree on a version.  A socket given here belongs to the client.

        `timeout_s` bounds the wait for each answer.  OSError when nobody listens, TimeoutError
        when the server serves another client.
        """
        self._timeout_s = timeout_s
        self._codec = Codec()
        self._next_id = 0
        # Every id in use: its answer when it is there; ids nobody waits for any more.
        self._answers: dict[int, Message | None] = {}
        self._abandoned: set[int] = set()
        self._regions: dict[int, RegionInfo] = {}
        self._closed = False
        self._sock = where if isinstance(where, socket.socket) else _connect(where, timeout_s)
        # A timeout of the kernel costs no poll() before each read, as Python's would.
        self._sock.settimeout(None)
        seconds = int(timeout_s)
        wait = _TIMEVAL.pack(seconds, int((timeout_s - seconds) * 1e6) or (seconds == 0))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        self.version = (wire.MAJOR, minor)
        self.capabilities = negotiation.Capabilities()
        if negotiate:
            try:
                self._negotiate(minor)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave; the server resets the device.  mmaps made here stay valid.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._sock.close()
        self._codec.close()
        for message in self._answers.values():
            if message is not None:
                message.close()
        self._answers.clear()
        for region in self._regions.values():
            if region.fd is not None:
                os.close(region.fd)
        self._regions.clear()

    def fileno(self) -> int:
        """The socket, to wait for the end of the connection or for answers."""
        return self._sock.fileno()

    # Requests of any kind

    def request(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Reply:
        """Send one command and wait for its answer; the fds stay the caller's."""
        return self.submit(command, payload, fds).wait()

    def submit(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Pending:
        """Send one command without waiting; answers come in the order of the commands."""
        msg_id = self._take_id()
        self._transmit(encode(msg_id, command, wire.TYPE_COMMAND, payload), fds)
        self._answers[msg_id] = None
        return Pending(self, msg_id, command)

    def post(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send one command that is never answered, not even when it fails."""
        self._transmit(encode(self._take_id(), command, wire.NO_REPLY, payload), fds)

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are, for those who test servers."""
        self._transmit(data, fds)

    def receive(self) -> Message:
        """The next message from the server, whatever it is; the counterpart of `send_raw`."""
        return self._receive(time.monotonic() + self._timeout_s)

    # Guest memory

    def dma_map(
        self,
        iova: int,
        size: int,
        fd: int | None = None,
        offset: int = 0,
        prot: DmaProt = _READ_WRITE,
    ) -> None:
        """Give the device `size` bytes of memory at `iova`: those of `fd` from `offset` on.

        Without an fd the device knows the range but cannot reach it.
        """
        self.submit_dma_map(iova, size, fd, offset, prot).wait()

    def submit_dma_map(
        self,
        iova: int,
        size: int,
        fd: int | None = None,
        offset: int = 0,
        prot: DmaProt = _READ_WRITE,
    ) -> Pending:
        """`dma_map` without waiting: thousands of maps are pipelined this way."""
        body = wire.DmaMap(wire.DmaMap.SIZE, prot, offset, iova, size).encode()
        return self.submit(Command.DMA_MAP, body, () if fd is None else (fd,))

    def dma_unmap(self, iova: int, size: int) -> None:
        """Take memory away; the device does not touch it after the return."""
        self.submit_dma_unmap(iova, size).wait()

    def submit_dma_unmap(self, iova: int, size: int) -> Pending:
        """`dma_unmap` without waiting."""
        body = wire.DmaUnmap(wire.DmaUnmap.SIZE, 0, iova, size).encode()
        return self.submit(Command.DMA_UNMAP, body)

    def dma_unmap_all(self) -> None:
        """Take all memory away."""
        body = wire.DmaUnmap(wire.DmaUnmap.SIZE, wire.UnmapFlag.ALL, 0, 0).encode()
        self.request(Command.DMA_UNMAP, body)

    # What the device is

    def device_info(self) -> wire.DeviceInfo:
        """Flags and the numbers of regions and interrupt indexes."""
        body = wire.DeviceInfo(wire.DeviceInfo.SIZE, 0, 0, 0).encode()
        return wire.DeviceInfo.decode(self.request(Command.DEVICE_GET_INFO, body).payload)

    def region_info(self, region: int) -> RegionInfo:
        """Size, access, mappable areas and their fd (the client's; closed with it).  Cached."""
        known = self._regions.get(region)
        if known is None:
            known = self._regions[region] = self._ask_region(region)
        return known

    def map_area(self, region: int, area: int | MmapArea = 0) -> mmap.mmap:
        """A mappable area of a region (by number in `region_info().areas`) as shared memory.

        PeerError when the server gave no such area.  The mmap is the caller's and outlives the
        client.
        """
        info = self.region_info(region)
        if isinstance(area, int):
            if not 0 <= area < len(info.areas):
                raise PeerError(f"region {region} has {len(info.areas)} areas, not {area + 1}")
            area = info.areas[area]
        if info.fd is None:
            raise PeerError(f"region {region} came without a descriptor")
        prot = (mmap.PROT_READ if info.readable else 0) | (mmap.PROT_WRITE if info.writable else 0)
        offset = info.fd_offset + area.offset
        return mmap.mmap(info.fd, area.size, mmap.MAP_SHARED, prot, offset=offset)

    def irq_info(self, index: int) -> wire.IrqInfo:
        """Flags and number of vectors of one interrupt index."""
        body = wire.IrqInfo(wire.IrqInfo.SIZE, 0, index, 0).encode()
        return wire.IrqInfo.decode(self.request(Command.DEVICE_GET_IRQ_INFO, body).payload)

    # Interrupts

    def set_irqs(
        self,
        index: int,
        flags: int,
        start: int,
        count: int,
        data: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        """DEVICE_SET_IRQS as it is."""
        argsz = wire.SetIrqs.SIZE + len(data)
        head = wire.SetIrqs(argsz, flags, index, start, count).encode()
        self.request(Command.DEVICE_SET_IRQS, head + data, fds)

    def set_eventfds(self, fds: Sequence[int], start: int = 0, index: int = IrqIndex.MSIX) -> None:
        """Have vectors from `start` on signal these eventfds, which stay the caller's too."""
        flags = IrqSet.DATA_EVENTFD | IrqSet.ACTION_TRIGGER
        step = max(1, min(self.capabilities.max_msg_fds, wire.MAX_MSG_FDS))
        for at in range(0, len(fds), step):
            part = fds[at : at + step]
            self.set_irqs(index, flags, start + at, len(part), fds=part)

    def clear_eventfds(self, count: int, start: int = 0, index: int = IrqIndex.MSIX) -> None:
        """Have `count` vectors from `start` on signal nothing."""
        flags = IrqSet.DATA_EVENTFD | IrqSet.ACTION_TRIGGER
        self.set_irqs(index, flags, start, count)

    def disable_irqs(self, index: int = IrqIndex.MSIX) -> None:
        """Drop all eventfds of an interrupt index."""
        self.set_irqs(index, IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER, 0, 0)

    def trigger_irqs(self, count: int = 1, start: int = 0, index: int = IrqIndex.MSIX) -> None:
        """Ask the device to signal these vectors now."""
        self.set_irqs(index, IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER, start, count)

    # Registers

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """`count` bytes of a region."""
        request = wire.REGION_ACCESS.pack(offset, region, count)
        data = self.request(Command.REGION_READ, request).payload[wire.RegionAccess.SIZE :]
        if len(data) != count:
            raise PeerError(f"REGION_READ: asked for {count} bytes, got {len(data)}")
        return data

    def region_write(self, region: int, offset: int, data: bytes, posted: bool = False) -> None:
        """Write to a region.  A posted write returns at once; any later answer follows it."""
        request = wire.REGION_ACCESS.pack(offset, region, len(data)) + data
        if posted:
            self.post(Command.REGION_WRITE, request)
        else:
            self.request(Command.REGION_WRITE, request)

    def read32(self, region: int, offset: int) -> int:
        """A 32-bit register."""
        value: int = _U32.unpack(self.region_read(region, offset, 4))[0]
        return value

    def write32(self, region: int, offset: int, value: int, posted: bool = False) -> None:
        """Write a 32-bit register."""
        self.region_write(region, offset, _U32.pack(value), posted)

    def reset(self) -> None:
        """DEVICE_RESET; maps and eventfds stay."""
        self.request(Command.DEVICE_RESET)

    # Inside

    def _negotiate(self, minor: int) -> None:
        reply = self.request(Command.VERSION, negotiation.offer(minor))
        for fd in reply.fds:
            os.close(fd)
        version, self.capabilities = negotiation.parse(reply.payload)
        if version.major != wire.MAJOR or version.minor > minor:
            raise PeerError(f"server answered version {version.major}.{version.minor}")
        self.version = (version.major, version.minor)

    def _ask_region(self, region: int) -> RegionInfo:
        """Both steps of GET_REGION_INFO."""
        argsz = wire.RegionInfo.SIZE
        reply = self._ask_region_once(region, argsz)
        info = wire.RegionInfo.decode(reply.payload)
        if argsz < info.argsz <= wire.MAX_DATA_XFER and not reply.fds:
            reply = self._ask_region_once(region, info.argsz)
            info = wire.RegionInfo.decode(reply.payload)
        for fd in reply.fds[1:]:
            os.close(fd)
        fd = reply.fds[0] if reply.fds else None
        try:
            areas = _areas(info, reply.payload)
        except PeerError:
            if fd is not None:
                os.close(fd)
            raise
        return RegionInfo(
            size=info.size,
            readable=bool(info.flags & wire.RegionFlag.READ),
            writable=bool(info.flags & wire.RegionFlag.WRITE),
            areas=areas,
            fd=fd,
            fd_offset=info.offset,
        )

    def _ask_region_once(self, region: int, argsz: int) -> Reply:
        body = wire.RegionInfo(argsz, 0, region, 0, 0, 0).encode()
        return self.request(Command.DEVICE_GET_REGION_INFO, body)

    def _take_id(self) -> int:
        for _ in range(0x10000):
            msg_id = self._next_id
            self._next_id = (msg_id + 1) & 0xFFFF
            if msg_id not in self._answers and msg_id not in self._abandoned:
                return msg_id
        raise EmuIavfError("all 65536 message ids are in use")

    def _transmit(self, data: bytes, fds: Sequence[int]) -> None:
        """Send all of it, taking in answers while the server does not read."""
        sent = send_once(self._sock, data, fds)
        if sent == len(data):
            return
        deadline = time.monotonic() + self._timeout_s
        rest = memoryview(data)
        while True:
            if sent:
                # Descriptors went with the first byte.
                rest, fds = rest[sent:], ()
            if not rest:
                return
            self._wait_to_send(deadline)
            sent = send_once(self._sock, rest, fds)

    def _wait_to_send(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLOUT)
        left_s = deadline - time.monotonic()
        events = poll.poll(left_s * 1000) if left_s > 0 else []
        if not events:
            raise TimeoutError("the server does not read")
        if events[0][1] & select.POLLIN:
            self._keep(self._receive(deadline))

    def _wait_for(self, msg_id: int) -> Message:
        message = self._answers[msg_id]
        deadline = 0.0
        try:
            while message is None:
                deadline = deadline or time.monotonic() + self._timeout_s
                received = self._receive(deadline)
                if received.msg_id == msg_id and received.flags & wire.TYPE_MASK:
                    message = received
                else:
                    self._keep(received)
        except TimeoutError:
            self._abandoned.add(msg_id)
            raise
        finally:
            del self._answers[msg_id]
        return message

    def _keep(self, message: Message) -> None:
        """Put an answer aside for the one who waits for it."""
        if message.flags & wire.TYPE_MASK == wire.TYPE_COMMAND:
            # DMA_READ or DMA_WRITE: memory is reached through its fd, or not at all.
            message.close()
            if not message.flags & wire.NO_REPLY:
                refusal = encode_error(message.msg_id, message.command, 0)
                with contextlib.suppress(OSError):
                    send_once(self._sock, refusal, ())
        elif self._answers.get(message.msg_id, message) is None:
            self._answers[message.msg_id] = message
        else:
            self._abandoned.discard(message.msg_id)
            message.close()

    def _receive(self, deadline: float) -> Message:
        codec = self._codec
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    codec.wanted, ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                raise TimeoutError(f"no answer within {self._timeout_s} s") from None
            fds = received_fds(ancillary) if ancillary else ()
            if not data:
                raise ConnectionResetError("the server closed the connection")
            message = codec.feed(data, fds, bool(flags & socket.MSG_CTRUNC))
            if message is not None:
                return message
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {self._timeout_s} s")


def eventfds(count: int) -> list[int]:
    """New non-blocking eventfds, for `set_eventfds`; the caller closes them."""
    flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
    made: list[int] = []
    try:
        made.extend(os.eventfd(0, flags) for _ in range(count))
    except OSError:
        close_fds(made)
        raise
    return made


def close_fds(fds: Iterable[int]) -> None:
    """Close descriptors one after the other."""
    for fd in fds:
        os.close(fd)


def _connect(path: str | os.PathLike[str], timeout_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(os.fspath(path))
    except BaseException:
        sock.close()
        raise
    return sock


def _areas(info: wire.RegionInfo, payload: bytes) -> tuple[MmapArea, ...]:
    """The mappable areas of a region; one that can be mapped as a whole has one area."""
    if not info.flags & wire.RegionFlag.MMAP:
        return ()
    at = info.cap_offset if info.flags & wire.RegionFlag.CAPS else 0
    # Capabilities only ever follow each other upwards, which also bounds the loop.
    while at:
        cap = wire.CapHeader.decode(payload, at)
        if cap.id == wire.CAP_SPARSE_MMAP:
            sparse = wire.SparseMmap.decode(payload, at)
            found = wire.SparseArea.decode_list(payload, at + wire.SparseMmap.SIZE, sparse.nr_areas)
            return tuple(MmapArea(area.offset, area.size) for area in found)
        if cap.next and cap.next <= at:
            raise PeerError(f"capability at {at} points back to {cap.next}")
        at = cap.next
    return (MmapArea(0, info.size),)
