"""Opening a TAP device: the ioctls of linux/if_tun.h, and every way they fail in words.

Knows no frames; what a caller gets is a non-blocking descriptor whose every read and write is a
virtio-net header of HEADER_SIZE bytes and one Ethernet frame.
"""

import fcntl
import os
import socket
import stat
import struct
from errno import EBUSY, EINVAL, ENODEV, ENOENT, EPERM

from emuiavf.errors import ConfigError

DEVICE = "/dev/net/tun"
MAX_NAME = 15
HEADER_SIZE = 10  # struct virtio_net_hdr without num_buffers

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNSETVNETHDRSZ = 0x400454D8

IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_UP = 0x1

# Checksums, TSO over IPv4 and IPv6 with ECN; and USO, which Linux has since 6.2.
OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08
OFFLOADS_USO = 0x20 | 0x40

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCSIFMTU = 0x8922

_REASONS = {
    EPERM: "needs CAP_NET_ADMIN, or a TAP made for this user before "
    "(ip tuntap add NAME mode tap user USER)",
    EBUSY: "in use by another process",
    EINVAL: "not a TAP device, or not a name for one",
    ENOENT: f"there is no {DEVICE} (modprobe tun)",
    ENODEV: f"there is no {DEVICE} (modprobe tun)",
}


def open_tap(name: str, ifname: str) -> tuple[int, str]:
    """Make or take over the TAP `ifname` ("%d" in it: a free number); its descriptor and name."""
    if len(ifname.encode()) > MAX_NAME:
        raise ConfigError(f"{name}: ifname={ifname}: at most {MAX_NAME} bytes")
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(name, f"ifname={ifname}", error) from None
    try:
        try:
            taken = _attach(fd, ifname, 0)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            # One that was made for several queues wants to be asked for them.
            taken = _attach(fd, ifname, IFF_MULTI_QUEUE)
        _set_offloads(fd)
    except OSError as error:
        os.close(fd)
        raise _refused(name, f"ifname={ifname}", error) from None
    return fd, taken


def take_tap(name: str, fd: int) -> tuple[int, str]:
    """Take over an inherited descriptor of a TAP or macvtap; its descriptor and name."""
    try:
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            raise ConfigError(f"{name}: fd={fd}: is not a TAP")
        answer = fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    except OSError as error:
        raise ConfigError(f"{name}: fd={fd}: is not a TAP ({error.strerror})") from None
    ifname, flags = struct.unpack_from("16sH", answer)
    if not flags & IFF_TAP or not flags & IFF_NO_PI or not flags & IFF_VNET_HDR:
        raise ConfigError(f"{name}: fd={fd}: must be opened with IFF_TAP|IFF_NO_PI|IFF_VNET_HDR")
    try:
        _set_offloads(fd)
    except OSError as error:
        raise _refused(name, f"fd={fd}", error) from None
    os.set_blocking(fd, False)
    return fd, ifname.rstrip(b"\0").decode()


def takes_large_udp(fd: int) -> bool:
    """Whether this kernel segments UDP (USO): one that does not refuses such a frame."""
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS | OFFLOADS_USO)
    except OSError:
        return False
    return True


def set_mtu(name: str, ifname: str, mtu: int) -> None:
    """Set the interface's MTU; ConfigError when that is not allowed."""
    try:
        _interface_ioctl(SIOCSIFMTU, struct.pack("16si20x", ifname.encode(), mtu))
    except OSError as error:
        raise ConfigError(f"{name}: mtu={mtu}: {error.strerror}") from None


def set_up(ifname: str) -> bool:
    """Bring the interface up; False when that is not ours to do (it was set up for us)."""
    try:
        answer = _interface_ioctl(SIOCGIFFLAGS, struct.pack("16s24x", ifname.encode()))
        (flags,) = struct.unpack_from("H", answer, 16)
        if not flags & IFF_UP:
            request = struct.pack("16sH22x", ifname.encode(), flags | IFF_UP)
            _interface_ioctl(SIOCSIFFLAGS, request)
    except OSError:
        return False
    return True


def _attach(fd: int, ifname: str, flags: int) -> str:
    flags |= IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    answer = fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", ifname.encode(), flags))
    return answer[:16].rstrip(b"\0").decode()


def _set_offloads(fd: int) -> None:
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE))
    if not takes_large_udp(fd):
        fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS)


def _interface_ioctl(request: int, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return fcntl.ioctl(control, request, argument)


def _refused(name: str, option: str, error: OSError) -> ConfigError:
    reason = _REASONS.get(error.errno or 0, error.strerror)
    return ConfigError(f"{name}: {option}: {reason}")
