"""The client's side of vfio-user: what a VMM or a user-space driver needs of a device.

    with Client("vf0.sock") as device:
        device.dma_map(0x100000, len(memory), fd)
        device.write32(0, 0x2000, 7)

Requests may be pipelined (`submit`, then `Pending.wait`) and region writes posted.  One thread
at a time.  Specification: vfio-user.
"""

import mmap
import os
import socket
import struct
from collections.abc import Sequence

from emuiavf.emudev.info import DmaProt, MmapArea, RegionInfo
from emuiavf.errors import PeerError
from emuiavf.vfio_user import negotiation, wire
from emuiavf.vfio_user.channel import Answer, Channel, Pending, Refused, connect
from emuiavf.vfio_user.fd_socket import close_fds
from emuiavf.vfio_user.wire import Command, IrqIndex, IrqSet, RegionIndex

__all__ = [
    "Answer",
    "Client",
    "Command",
    "DmaProt",
    "IrqIndex",
    "IrqSet",
    "MmapArea",
    "Pending",
    "Refused",
    "RegionIndex",
    "RegionInfo",
    "close_fds",
    "eventfds",
]

_U32 = struct.Struct("<I")
_READ_WRITE = DmaProt.READ | DmaProt.WRITE


class Client(Channel):
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
        sock = where if isinstance(where, socket.socket) else connect(where, timeout_s)
        super().__init__(sock, timeout_s)
        self._regions: dict[int, RegionInfo] = {}
        self.version = (wire.MAJOR, minor)
        self.capabilities = negotiation.Capabilities()
        if negotiate:
            try:
                self._negotiate(minor)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Leave; the server resets the device.  mmaps made here stay valid.  Idempotent."""
        super().close()
        close_fds(region.fd for region in self._regions.values() if region.fd is not None)
        self._regions.clear()

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
        close_fds(reply.fds)
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
        close_fds(reply.fds[1:])
        try:
            areas = _areas(info, reply.payload)
        except PeerError:
            close_fds(reply.fds[:1])
            raise
        return RegionInfo(
            size=info.size,
            readable=bool(info.flags & wire.RegionFlag.READ),
            writable=bool(info.flags & wire.RegionFlag.WRITE),
            areas=areas,
            fd=reply.fds[0] if reply.fds else None,
            fd_offset=info.offset,
        )

    def _ask_region_once(self, region: int, argsz: int) -> Answer:
        body = wire.RegionInfo(argsz, 0, region, 0, 0, 0).encode()
        return self.request(Command.DEVICE_GET_REGION_INFO, body)


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
