"""Linux VFIO by its ioctls, for programs under `emuiavf exec`; knows nothing of emuiavf."""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from typing import Any

GET_API_VERSION, CHECK_EXTENSION, SET_IOMMU = 0x3B64, 0x3B65, 0x3B66
GROUP_GET_STATUS, GROUP_SET_CONTAINER, GROUP_UNSET_CONTAINER = 0x3B67, 0x3B68, 0x3B69
GROUP_GET_DEVICE_FD = 0x3B6A
GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, SET_IRQS, RESET = range(0x3B6B, 0x3B70)
IOMMU_GET_INFO, MAP_DMA, UNMAP_DMA = 0x3B70, 0x3B71, 0x3B72
TYPE1, TYPE1V2 = 1, 3
READ, WRITE, MAPPABLE, CAPS = 1, 2, 4, 8
NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32
CONFIG = 7 << 40


def ask(fd: int, request: int, layout: str, *values: int) -> tuple[Any, ...]:
    """A request whose structure is also the answer."""
    body = bytearray(struct.pack(layout, *values))
    fcntl.ioctl(fd, request, body)
    return struct.unpack(layout, body)


def fails(number: int, call: Callable[..., object], *arguments: object) -> None:
    """The call ends with this errno."""
    found = 0
    try:
        call(*arguments)
    except OSError as error:
        found = error.errno or 0
    assert found == number, f"{errno.errorcode.get(found, 'success')}: {arguments}"


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def shared(size: int) -> mmap.mmap:
    """Memory that can be shared; its descriptor is closed."""
    fd = os.memfd_create("dma")
    os.ftruncate(fd, size)
    memory = mmap.mmap(fd, size)
    os.close(fd)
    return memory


def map_dma(container: int, memory: int | mmap.mmap, iova: int, size: int, flags: int = 3) -> None:
    start = memory if isinstance(memory, int) else address_of(memory)
    ask(container, MAP_DMA, "<IIQQQ", 32, flags, start, iova, size)


def unmap_dma(container: int, iova: int, size: int, flags: int = 0) -> int:
    """The bytes that were unmapped."""
    return int(ask(container, UNMAP_DMA, "<IIQQ", 24, flags, iova, size)[3])


def region_info(device: int, index: int, argsz: int = 32) -> tuple[int, ...]:
    """argsz, flags, index, cap_offset, size, offset, and the mappable areas."""
    body = bytearray(argsz)
    struct.pack_into("<III", body, 0, argsz, 0, index)
    fcntl.ioctl(device, GET_REGION_INFO, body)
    info = struct.unpack_from("<IIIIQQ", body)
    if not info[3]:
        return info
    _, _, _, count, _ = struct.unpack_from("<HHIII", body, info[3])
    return (*info, *struct.unpack_from(f"<{2 * count}Q", body, info[3] + 16))


def set_irqs(
    device: int, flags: int, index: int, start: int, count: int, data: bytes = b""
) -> None:
    body = struct.pack("<IIIII", 20 + len(data), flags, index, start, count) + data
    fcntl.ioctl(device, SET_IRQS, bytearray(body))


class Vfio:
    """The usual way to a device, step by step as DPDK takes it."""

    def __init__(self, address: str = "0000:3f:00.0", container: int | None = None) -> None:
        link = os.readlink(f"/sys/bus/pci/devices/{address}/iommu_group")
        self.container = os.open("/dev/vfio/vfio", os.O_RDWR) if container is None else container
        self.group = os.open(f"/dev/vfio/{os.path.basename(link)}", os.O_RDWR)
        fcntl.ioctl(self.group, GROUP_SET_CONTAINER, struct.pack("<i", self.container))
        if container is None:
            fcntl.ioctl(self.container, SET_IOMMU, TYPE1V2)
        self.address = address
        self.device = self.open()

    def open(self) -> int:
        """A descriptor of the device."""
        return int(
            fcntl.ioctl(self.group, GROUP_GET_DEVICE_FD, bytearray(f"{self.address}\0", "ascii"))
        )

    def read(self, at: int, size: int = 4) -> bytes:
        return os.pread(self.device, size, at)

    def close(self) -> None:
        os.close(self.device)
        os.close(self.group)
        os.close(self.container)
