"""The TAP port: frames to and from a Linux network interface, with its offloads.

Every read (_tap_in) and write (_tap_out) is a virtio-net header and a frame, so partial checksums
and large TCP and UDP frames pass in both directions without being finished or cut here.
virtio 1.3, 5.1.6; linux/virtio_net.h.
"""

import os

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from emuiavf.datapath._endpoint cimport SourceRef
from emuiavf.datapath._frame cimport FRAME_MIN_LEN
from emuiavf.ports._port cimport Port
from emuiavf.ports._tap_in cimport TAP_BUFFER, TapIn, tap_done, tap_take
from emuiavf.ports._tap_out cimport TapOut, tap_put

from emuiavf.emudev.vdev import Option, integer, switch, text
from emuiavf.errors import ConfigError
from emuiavf.ports import tun


cdef enum:
    VLAN_TAGS = 8


OPTIONS = {
    "ifname": Option(text),
    "fd": Option(integer(0, 1 << 20)),
    "mtu": Option(integer(68, 65521)),
    "up": Option(switch, True),
}


def create(str name, dict values, rows=None):
    """The port of a TAP interface: made here, taken over by name, or inherited as a descriptor.

    With `mtu` the interface gets that MTU and longer frames are dropped and counted.
    """
    ifname, fd, mtu = values["ifname"], values["fd"], values["mtu"]
    if (ifname is None) == (fd is None):
        raise ConfigError(f"{name}: a TAP is told by one of ifname= and fd=")
    fd, ifname = tun.open_tap(name, ifname) if fd is None else tun.take_tap(name, fd)
    try:
        if mtu is not None:
            tun.set_mtu(name, ifname, mtu)
        if values["up"]:
            tun.set_up(ifname)
    except ConfigError:
        os.close(fd)
        raise
    max_frame = 0 if mtu is None else mtu + FRAME_MIN_LEN + VLAN_TAGS
    return Tap(name, fd, ifname, max_frame, rows, tun.takes_large_udp(fd))


cdef class Tap(Port):
    """Frames through a descriptor that reads and writes like a TAP's; it is the port's from here.

    `max_frame`: what is longer, segmented frames by their segments, is dropped; 0: no limit.
    `large_udp`: UDP frames to be segmented are not cut here.
    """

    cdef TapIn _in
    cdef TapOut _out
    cdef readonly str ifname

    def __cinit__(self, *args, **kwargs):
        self._in.source.fd = -1
        self._in.buffer = <uint8_t *>malloc(TAP_BUFFER)
        if self._in.buffer == NULL:
            raise MemoryError

    def __init__(self, str name, int fd, str ifname, uint32_t max_frame=0, rows=None,
                 bint large_udp=True):
        super().__init__(name, rows)
        self.ifname = ifname
        self._in.source.fd = fd
        self._in.source.take = tap_take
        self._in.source.done = tap_done
        self._in.source.row = self.tx_row
        self._out.sink.put = tap_put
        self._out.row = self.rx_row
        self._out.fd = fd
        self._out.max_frame = max_frame
        self._out.large_udp = large_udp
        self.sink = &self._out.sink

    @property
    def fd(self) -> int:
        """The descriptor; -1 after close()."""
        return self._in.source.fd

    def __dealloc__(self):
        self.close()
        free(self._in.buffer)

    cpdef list active_sources(self):
        return [] if self._in.source.fd < 0 else [SourceRef.of(&self._in.source, self, 0)]

    def close(self):
        """Close the descriptor; an interface that was made for the port goes with it."""
        if self._in.source.fd >= 0:
            os.close(self._in.source.fd)
            self._in.source.fd = -1
            self._out.fd = -1
