"""The server's side of one vfio-user connection, without a socket: Messages in, Replies out.

One row per command in RULES.  Everything is checked before the device is asked to do anything,
so a refused command leaves it as it was.  Knows any PCI device by `DeviceOps` and none by name.
Specification: vfio-user; reply sizes and tolerance as its known clients need them: QEMU fails on
a longer reply than it expects, Cloud Hypervisor waits for ever for a shorter one.
"""

import errno
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from emuiavf.emudev.info import (
    DeviceDescription,
    DmaProt,
    MemRegion,
    MmapArea,
    RegionInfo,
    ResetReason,
)
from emuiavf.errors import PeerError
from emuiavf.vfio_user import irqs, negotiation, wire
from emuiavf.vfio_user.codec import FramingError, Message, encode_error
from emuiavf.vfio_user.wire import Command

_ACCESS_SIZE = wire.RegionAccess.SIZE
_HEADER_SIZE = wire.Header.SIZE
# As plain integers: `~` of an IntFlag clears unknown bits.
_MAP_FLAGS = sum(wire.MapFlag)


class DeviceOps(Protocol):
    """What the session asks of a device; calls come from the control thread only.

    A PeerError that a call raises becomes the errno of the reply.
    """

    def describe(self) -> DeviceDescription:
        """Regions and interrupts by VFIO PCI index; fixed while a client is connected."""

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """`count` bytes; the range lies inside the region."""

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        """Write `data`; the range lies inside the region."""

    def dma_map(self, region: MemRegion, fd: int | None, offset: int) -> None:
        """Map guest memory; `fd` belongs to the callee from now on, also on error."""

    def dma_unmap(self, iova: int, size: int) -> None:
        """Drop every map wholly inside the range; PeerError(ENOENT) when there is none.

        No access to that memory happens after the return.
        """

    def dma_unmap_all(self) -> None:
        """Drop every map; likewise."""

    def set_irq_eventfds(self, index: int, start: int, fds: Sequence[int | None]) -> None:
        """Replace the eventfds of vectors from `start` (None: no eventfd).

        The fds belong to the callee from now on, also on error.
        """

    def disable_irqs(self, index: int) -> None:
        """Drop all eventfds of an interrupt index."""

    def trigger_irqs(self, index: int, vectors: Sequence[int]) -> None:
        """Signal these vectors now."""

    def mask_irqs(self, index: int, vectors: Sequence[int], masked: bool) -> None:
        """Mask or unmask these vectors."""

    def reset(self, reason: ResetReason) -> None:
        """Back to the initial state; maps and eventfds stay for `ResetReason.CLIENT`."""

    def attached(self) -> None:
        """A client has connected and agreed on a version."""

    def detached(self) -> None:
        """That client is gone: drop maps and eventfds, reset.  Once per `attached`."""


class Reply(NamedTuple):
    """One message to send in one piece; `fds` stay the device's."""

    data: bytes
    fds: tuple[int, ...] = ()


class Answer(NamedTuple):
    """Payload of a reply that carries descriptors."""

    payload: bytes
    fds: tuple[int, ...]


class Session:
    """Answers the commands of one client, one by one in their order."""

    def __init__(self, ops: DeviceOps) -> None:
        self.ops = ops
        self.description = ops.describe()
        regions = self.description.regions
        self.readable = tuple(r.size if r.readable else 0 for r in regions)
        self.writable = tuple(r.size if r.writable else 0 for r in regions)
        # True: after the reply at hand the connection is to be closed.
        self.finished = False
        # Why a message was refused, for the log; who writes it there clears it.
        self.last_error = ""
        self._rules = NEGOTIATION
        self._attached = False

    def handle(self, message: Message) -> Reply | None:
        """Execute one command; its reply, or None when the client wants none.

        Consumes the message: fds that the device did not take are closed.
        """
        try:
            if message.flags & wire.TYPE_MASK != wire.TYPE_COMMAND:
                raise PeerError(f"message type {message.flags & wire.TYPE_MASK} is no command")
            answer = self._rules.get(message.command, on_unknown)(self, message)
        except PeerError as fault:
            return self._refuse(message, fault)
        finally:
            if message.fds:
                message.close()
        if message.flags & wire.NO_REPLY:
            return None
        fds: tuple[int, ...] = ()
        if isinstance(answer, Answer):
            answer, fds = answer
        size = _HEADER_SIZE + len(answer)
        header = wire.HEADER.pack(message.msg_id, message.command, size, wire.TYPE_REPLY, 0)
        return Reply(header + answer, fds)

    def refuse_frame(self, fault: FramingError) -> Reply | None:
        """The last reply to a client whose stream cannot be followed any more."""
        self.finished = True
        self.last_error = str(fault)
        if fault.header.flags & wire.NO_REPLY:
            return None
        return Reply(encode_error(fault.header.msg_id, fault.header.command, fault.errno))

    def close(self) -> None:
        """The client is gone; tells the device exactly once, if it ever knew of this client."""
        self.finished = True
        if self._attached:
            self._attached = False
            self.ops.detached()

    def attach(self) -> None:
        """VERSION was agreed: from now on all commands are served."""
        self._rules = RULES
        self._attached = True
        self.ops.attached()

    def _refuse(self, message: Message, fault: PeerError) -> Reply | None:
        self.last_error = f"{wire.command_name(message.command)} refused: {fault}"
        if self._rules is NEGOTIATION:
            self.finished = True
        if message.flags & wire.NO_REPLY:
            return None
        return Reply(encode_error(message.msg_id, message.command, fault.errno))


def check_argsz(argsz: int, least: int) -> None:
    """A client's buffer must hold at least the fixed part of the reply."""
    if argsz < least:
        raise PeerError(f"argsz {argsz}, at least {least}")


def check_range(address: int, size: int) -> None:
    """A range of guest memory is not empty and ends inside the address space."""
    if size == 0 or size > wire.ADDRESS_SPACE - address:
        raise PeerError(f"address {address:#x} size {size:#x}")


def region_of(session: Session, index: int) -> RegionInfo:
    regions = session.description.regions
    if index >= len(regions):
        raise PeerError(f"region {index}, there are {len(regions)}")
    return regions[index]


def on_unknown(session: Session, message: Message) -> bytes:
    """Also the commands that are not served; before VERSION, all but VERSION."""
    raise PeerError("not served, or not now")


def on_version(session: Session, message: Message) -> bytes:
    payload = negotiation.agree(message.payload)
    session.attach()
    return payload


def on_dma_map(session: Session, message: Message) -> bytes:
    request = wire.DmaMap.decode(message.payload)
    check_argsz(request.argsz, wire.DmaMap.SIZE)
    check_range(request.address, request.size)
    if request.size > wire.MAX_DMA_SIZE:
        raise PeerError(f"size {request.size:#x}", errno.ENOSPC)
    if request.flags & ~_MAP_FLAGS:
        raise PeerError(f"flags {request.flags:#x}")
    if message.truncated or len(message.fds) > 1:
        raise PeerError(f"{len(message.fds)} descriptors arrived, at most 1")
    if not message.fds and request.flags & (wire.MapFlag.MMAP | wire.MapFlag.FILE_IO):
        raise PeerError("the flags promise a descriptor")
    prot = DmaProt(request.flags & (wire.MapFlag.READ | wire.MapFlag.WRITE))
    region = MemRegion(request.address, request.size, prot, bool(message.fds))
    fds = message.take_fds()
    session.ops.dma_map(region, fds[0] if fds else None, request.offset)
    return b""


def on_dma_unmap(session: Session, message: Message) -> bytes:
    request = wire.DmaUnmap.decode(message.payload)
    check_argsz(request.argsz, wire.DmaUnmap.SIZE)
    if request.argsz > wire.MAX_DATA_XFER:
        raise PeerError(f"argsz {request.argsz}, at most {wire.MAX_DATA_XFER}")
    # GET_DIRTY_BITMAP is refused like an unknown flag: DMA logging is never on.
    if request.flags not in (0, wire.UnmapFlag.ALL):
        raise PeerError(f"flags {request.flags:#x}")
    if request.flags:
        if request.address or request.size:
            raise PeerError("ALL together with a range")
        session.ops.dma_unmap_all()
    else:
        check_range(request.address, request.size)
        session.ops.dma_unmap(request.address, request.size)
    return message.payload[: wire.DmaUnmap.SIZE]


def on_get_info(session: Session, message: Message) -> bytes:
    request = wire.DeviceInfo.decode(message.payload)
    check_argsz(request.argsz, wire.DeviceInfo.SIZE)
    device = session.description
    flags = wire.DeviceFlag.PCI | (wire.DeviceFlag.RESET if device.resettable else 0)
    size = wire.DeviceInfo.SIZE
    return wire.DeviceInfo(size, flags, len(device.regions), len(device.irqs)).encode()


def on_get_region_info(session: Session, message: Message) -> bytes | Answer:
    """In two steps: a client whose argsz is too small for the areas learns what they need."""
    request = wire.RegionInfo.decode(message.payload)
    check_argsz(request.argsz, wire.RegionInfo.SIZE)
    region = region_of(session, request.index)
    flags = (wire.RegionFlag.READ if region.readable else 0) | (
        wire.RegionFlag.WRITE if region.writable else 0
    )
    if region.size == 0 or region.fd is None or not region.areas:
        flags = flags if region.size else 0
        size = wire.RegionInfo.SIZE
        return wire.RegionInfo(size, flags, request.index, 0, region.size, 0).encode()
    if region.areas == (MmapArea(0, region.size),):
        # The flag says it all; a client that knows no capability maps a BAR whole or not at all.
        flags |= wire.RegionFlag.MMAP
        size, base = wire.RegionInfo.SIZE, region.fd_offset
        info = wire.RegionInfo(size, flags, request.index, 0, region.size, base)
        return Answer(info.encode(), (region.fd,))
    areas = b"".join(wire.SparseArea(area.offset, area.size).encode() for area in region.areas)
    cap = wire.SparseMmap(wire.CAP_SPARSE_MMAP, 1, 0, len(region.areas), 0).encode() + areas
    needed = wire.RegionInfo.SIZE + len(cap)
    flags |= wire.RegionFlag.MMAP
    base = region.fd_offset
    if request.argsz < needed:
        return wire.RegionInfo(needed, flags, request.index, 0, region.size, base).encode()
    flags |= wire.RegionFlag.CAPS
    at = wire.RegionInfo.SIZE
    head = wire.RegionInfo(needed, flags, request.index, at, region.size, base).encode()
    return Answer(head + cap, (region.fd,))


def on_get_region_io_fds(session: Session, message: Message) -> bytes:
    """Optional in the protocol; no region here has any."""
    request = wire.RegionIoFds.decode(message.payload)
    check_argsz(request.argsz, wire.RegionIoFds.SIZE)
    if request.flags or request.count or request.argsz > wire.MAX_DATA_XFER:
        raise PeerError(f"{request}")
    if region_of(session, request.index).size == 0:
        raise PeerError(f"region {request.index} does not exist")
    return wire.RegionIoFds(wire.RegionIoFds.SIZE, 0, request.index, 0).encode()


def on_get_irq_info(session: Session, message: Message) -> bytes:
    request = wire.IrqInfo.decode(message.payload)
    check_argsz(request.argsz, wire.IrqInfo.SIZE)
    counts = session.description.irqs
    if request.index >= len(counts):
        raise PeerError(f"interrupt index {request.index}, there are {len(counts)}")
    # Without NORESIZE: QEMU then changes single vectors and loses no event in between.
    flags, count = wire.IrqFlag.EVENTFD, counts[request.index]
    return wire.IrqInfo(wire.IrqInfo.SIZE, flags, request.index, count).encode()


def on_set_irqs(session: Session, message: Message) -> bytes:
    irqs.set_irqs(session.ops, session.description.irqs, message)
    return b""


def on_region_read(session: Session, message: Message) -> bytes:
    payload = message.payload
    if len(payload) < _ACCESS_SIZE:
        raise PeerError(f"{len(payload)} bytes")
    offset, region, count = wire.REGION_ACCESS.unpack_from(payload)
    check_access(session.readable, offset, region, count)
    if len(payload) > _ACCESS_SIZE:
        payload = payload[:_ACCESS_SIZE]
    if count == 0:
        return payload
    data = session.ops.region_read(region, offset, count)
    if len(data) != count:
        raise PeerError(f"the device gave {len(data)} of {count} bytes")
    return payload + data


def on_region_write(session: Session, message: Message) -> bytes:
    payload = message.payload
    if len(payload) < _ACCESS_SIZE:
        raise PeerError(f"{len(payload)} bytes")
    offset, region, count = wire.REGION_ACCESS.unpack_from(payload)
    if len(payload) - _ACCESS_SIZE != count:
        raise PeerError(f"{len(payload) - _ACCESS_SIZE} bytes, count {count}")
    check_access(session.writable, offset, region, count)
    if count:
        session.ops.region_write(region, offset, payload[_ACCESS_SIZE:])
    return payload[:_ACCESS_SIZE]


def check_access(sizes: Sequence[int], offset: int, region: int, count: int) -> None:
    if region >= len(sizes):
        raise PeerError(f"region {region}, there are {len(sizes)}")
    size = sizes[region]
    if count > size or offset > size - count or count > wire.MAX_DATA_XFER:
        raise PeerError(f"region {region}: offset {offset:#x} count {count}, size {size:#x}")


def on_reset(session: Session, message: Message) -> bytes:
    if not session.description.resettable:
        raise PeerError("the device has none")
    session.ops.reset(ResetReason.CLIENT)
    return b""


Handler = Callable[[Session, Message], bytes | Answer]

NEGOTIATION: dict[int, Handler] = {Command.VERSION: on_version}

RULES: dict[int, Handler] = {
    Command.DMA_MAP: on_dma_map,
    Command.DMA_UNMAP: on_dma_unmap,
    Command.DEVICE_GET_INFO: on_get_info,
    Command.DEVICE_GET_REGION_INFO: on_get_region_info,
    Command.DEVICE_GET_REGION_IO_FDS: on_get_region_io_fds,
    Command.DEVICE_GET_IRQ_INFO: on_get_irq_info,
    Command.DEVICE_SET_IRQS: on_set_irqs,
    Command.REGION_READ: on_region_read,
    Command.REGION_WRITE: on_region_write,
    Command.DEVICE_RESET: on_reset,
    # A second VERSION; what only a server sends; and what this server did not offer.
    Command.VERSION: on_unknown,
    Command.DMA_READ: on_unknown,
    Command.DMA_WRITE: on_unknown,
    Command.REGION_WRITE_MULTI: on_unknown,
    Command.DEVICE_FEATURE: on_unknown,
    Command.MIG_DATA_READ: on_unknown,
    Command.MIG_DATA_WRITE: on_unknown,
}
