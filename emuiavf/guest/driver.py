"""Our own iavf driver as a library: from a vfio-user socket to frames, and back after a reset.

    with VfDriver("vf0.sock") as vf:
        vf.start(num_pairs=2)
        vf.queues[0].send([b"..."])
        frames = vf.queues[0].receive()

One thread at a time.  Errors of the transport (`ConnectionError`, `TimeoutError`, `Refused`) pass
through; RequestRefused, NoAnswer and AdminQueueError say what the PF did.
"""

import os
import socket
import time
from collections.abc import Sequence
from typing import Self

from emuiavf._rxdid import Rxdid
from emuiavf.errors import EmuIavfError, StateError
from emuiavf.guest.adminq import AdminQueue, AdminQueueError, readable
from emuiavf.guest.bar import Bar0
from emuiavf.guest.channel import LinkState, NoAnswer, RequestRefused, Virtchnl
from emuiavf.guest.memory import DmaMemory
from emuiavf.guest.queue_requests import QueueRequests
from emuiavf.guest.queues import QueuePair, memory_needed
from emuiavf.guest.settings import Settings
from emuiavf.guest.traffic import RSS_KEY
from emuiavf.iavf import regs
from emuiavf.iavf.regs import Rstat
from emuiavf.vfio_user.client import Client, IrqIndex, RegionIndex, eventfds
from emuiavf.virtchnl.messages import (
    CapRequest,
    PhcTime,
    PtpCaps,
    QueueRequest,
    QueueSelect,
    RssHena,
    StatsReply,
    SupportedRxdids,
    Version,
    VfResources,
    VlanCaps,
)
from emuiavf.virtchnl.ops import VERSION_MAJOR, VERSION_MINOR, Cap, Op, PtpCap

__all__ = ["AdminQueueError", "DeviceError", "NoAnswer", "RequestRefused", "VfDriver"]

VENDOR_DEVICE = 0x1889_8086
WANTED_CAPS = (
    Cap.L2
    | Cap.RSS_PF
    | Cap.VLAN_V2
    | Cap.WB_ON_ITR
    | Cap.REQ_QUEUES
    | Cap.ADV_LINK_SPEED
    | Cap.RX_POLLING
    | Cap.RX_FLEX_DESC
    | Cap.ADV_RSS_PF
    | Cap.FDIR_PF
    | Cap.CRC
    | Cap.LARGE_NUM_QPAIRS
    | Cap.PTP
    | Cap.ENCAP
    | Cap.ENCAP_CSUM
    | Cap.USO
)
RESET_TIMEOUT_S = 2.0
DEFAULT_MEMORY = 64 << 20

_COMMAND = 0x04
_COMMAND_MEMORY_AND_MASTER = 0x6
_CAP_POINTER = 0x34
_CAP_EXPRESS = 0x10
_DEVCTL = 0x08
_DEVCTL_FLR = 0x8000


class DeviceError(EmuIavfError):
    """The device is not ours to drive, or does not come out of a reset."""


class VfDriver:
    """One VF.  Constructing it probes the device: it is reset and its resources are known.

    `where` is the path of the device's socket or a connected socket, `mac` the address in use.
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | socket.socket,
        *,
        memory_size: int = DEFAULT_MEMORY,
        map_doorbells: bool = True,
        caps: Cap = WANTED_CAPS,
    ) -> None:
        self.client = Client(where)
        self.queues: list[QueuePair] = []
        self.memory: DmaMemory | None = None
        self._vectors: list[int] = []
        self._caps = caps
        self._max_frame = 0
        try:
            self._probe(memory_size, map_doorbells)
        except BaseException:
            self.close()
            raise

    def _probe(self, memory_size: int, map_doorbells: bool) -> None:
        client = self.client
        found = client.read32(RegionIndex.CONFIG, 0)
        if found != VENDOR_DEVICE:
            raise DeviceError(f"device {found & 0xFFFF:04x}:{found >> 16:04x}, not 8086:1889")
        client.reset()
        self.memory = DmaMemory(memory_size)
        client.dma_map(self.memory.iova, self.memory.size, self.memory.fd)
        self._vectors = eventfds(client.irq_info(IrqIndex.MSIX).count)
        client.set_eventfds(self._vectors)
        self.bar = Bar0(client, map_doorbells=map_doorbells)
        self.channel = Virtchnl(AdminQueue(self.bar, self.memory, self._vectors[0]))
        self.settings = Settings(self.channel)
        self._admin = self.channel.queue
        self.set_bus_master(True)
        self._wait_reset_done()
        self._negotiate(with_version=True)

    # What the VF has

    @property
    def link(self) -> LinkState:
        """The link as last reported."""
        self.channel.poll()
        return self.channel.link

    @property
    def mac(self) -> bytes:
        return self.resources.default_mac_addr

    @property
    def caps(self) -> Cap:
        """Capabilities that the PF has granted."""
        return Cap(self.resources.vf_cap_flags)

    def stats(self) -> StatsReply:
        """The PF's counters of this VF."""
        select_vsi = QueueSelect(self.resources.vsi_id)
        return StatsReply.decode(self.channel.request(Op.GET_STATS, select_vsi))

    # Queues

    def start(
        self,
        num_pairs: int = 1,
        *,
        ring_len: int = 512,
        buf_size: int = 2048,
        max_frame: int = 0,
        interrupts: bool = False,
        lut: bytes | None = None,
        rxdid: Rxdid = Rxdid.LEGACY,
        keep_crc: bool = False,
        timestamps: bool = False,
    ) -> None:
        """Set up and enable `num_pairs` queue pairs, with RSS over them when granted.

        `max_frame` is the longest frame to receive (0: what the PF allows).  `interrupts`: every
        queue has a vector that `wait` can sleep on.  More pairs than the VF has are requested.
        `rxdid`: how received frames are reported; flexible formats need Cap.RX_FLEX_DESC.
        `keep_crc`: received frames end with their FCS, which needs Cap.CRC.  `timestamps`: flexible
        formats report the time of each frame, which needs Cap.PTP.
        """
        if self.queues:
            raise StateError("the queues are running")
        if num_pairs > self.resources.num_queue_pairs:
            self.request_queues(num_pairs)
        assert self.memory is not None
        self._kind = buf_size, rxdid, keep_crc, timestamps
        try:
            for index in range(num_pairs):
                self.queues.append(QueuePair(index, self.bar, self.memory, ring_len, *self._kind))
        except MemoryError:
            self._free_queues()
            needed = memory_needed(num_pairs, ring_len, buf_size)
            raise MemoryError(f"{num_pairs} queue pairs need {needed} bytes of memory") from None
        self._max_frame = max_frame
        self._interrupts = interrupts
        if Cap.RSS_PF in self.caps:
            size = self.resources.rss_lut_size
            table = lut if lut is not None else bytes(i % num_pairs for i in range(size))
            self.settings.set_rss(RSS_KEY, table, self.hena_caps())
        try:
            self._enable()
        except EmuIavfError:
            self._free_queues()
            raise

    def stop(self) -> None:
        """Disable the queues and free their memory."""
        if self.queues:
            self._requests.disable(range(len(self.queues)), range(len(self.queues)))
            self._free_queues()

    def stop_queue(self, index: int) -> None:
        """Stop one pair while the others go on; its rings keep what they hold."""
        self._requests.disable([index], [index])

    def start_queue(self, index: int, *, ring_len: int = 0) -> None:
        """Start a stopped pair with empty rings, of another length if one is given."""
        assert self.memory is not None
        if ring_len:
            self.queues[index].free()
            fresh = QueuePair(index, self.bar, self.memory, ring_len, *self._kind)
            self.queues[index] = fresh
            self._requests.configure([fresh], self._allowed_frame())
        else:
            self.queues[index].rewind()
        self._requests.enable([index], [index])

    def hena_caps(self) -> int:
        """Packet classes that the PF can hash."""
        return RssHena.decode(self.channel.request(Op.GET_RSS_HENA_CAPS)).hena

    def supported_rxdids(self) -> set[int]:
        """Formats of received descriptors; RequestRefused without Cap.RX_FLEX_DESC."""
        body = self.channel.request(Op.GET_SUPPORTED_RXDIDS)
        bitmap = SupportedRxdids.decode(body).supported_rxdids
        return {rxdid for rxdid in range(64) if bitmap >> rxdid & 1}

    def ptp_caps(self) -> PtpCap:
        """What can be done with the PTP clock; RequestRefused without Cap.PTP."""
        wanted = PtpCap.RX_TSTAMP | PtpCap.READ_PHC
        body = self.channel.request(Op.PTP_GET_CAPS, PtpCaps(wanted))
        return PtpCap(PtpCaps.decode(body).caps)

    def phc_ns(self) -> int:
        """The time by the PTP clock, in nanoseconds since 1970."""
        return PhcTime.decode(self.channel.request(Op.PTP_GET_TIME, PhcTime())).time

    def vlan_caps(self) -> VlanCaps:
        """What the PF can do with VLAN tags; RequestRefused without Cap.VLAN_V2."""
        return VlanCaps.decode(self.channel.request(Op.GET_OFFLOAD_VLAN_V2_CAPS))

    @property
    def doorbells_mapped(self) -> bool:
        """Whether a doorbell is a store into shared memory instead of a message."""
        return self.bar.word(regs.QTX_TAIL1.at(0)) is not None

    def wait(self, queues: Sequence[int], timeout_s: float) -> list[int]:
        """Sleep until one of these queues has an interrupt; returns those whose vector had one.

        A vector is armed again here, so frames that came before must be fetched before.
        """
        for queue in queues:
            self._write_dyn_ctl(queue, regs.DynCtl.INTENA | regs.DynCtl.CLEARPBA)
        fds = {queue: self._vectors[self._requests.vector(queue)] for queue in queues}
        ready = readable(list(set(fds.values())), timeout_s)
        for fd in ready:
            os.eventfd_read(fd)
        return [queue for queue, fd in fds.items() if fd in ready]

    # Resets

    def reset(self) -> None:
        """VF reset by request, then everything that ran before runs again with empty rings."""
        self.channel.post(Op.RESET_VF)
        self._recover()

    def request_queues(self, num_pairs: int) -> None:
        """Have the PF reset the VF with this many queue pairs; RequestRefused if it cannot."""
        self.channel.request_reset(QueueRequest(num_pairs), RESET_TIMEOUT_S)
        self._recover()
        if self.resources.num_queue_pairs < num_pairs:
            raise DeviceError(f"{self.resources.num_queue_pairs} queue pairs, not {num_pairs}")

    def function_reset(self) -> None:
        """Function-level reset through configuration space, then as after `reset`."""
        control = self._express_cap() + _DEVCTL
        value = int.from_bytes(self.client.region_read(RegionIndex.CONFIG, control, 2), "little")
        data = (value | _DEVCTL_FLR).to_bytes(2, "little")
        self.client.region_write(RegionIndex.CONFIG, control, data)
        self.set_bus_master(True)
        self._recover(with_version=True)

    def set_bus_master(self, enabled: bool) -> None:
        """PCI COMMAND: without the bus master bit the device reaches no memory."""
        value = _COMMAND_MEMORY_AND_MASTER if enabled else _COMMAND_MEMORY_AND_MASTER & ~4
        self.client.region_write(RegionIndex.CONFIG, _COMMAND, value.to_bytes(2, "little"))

    def close(self) -> None:
        """Leave; the device resets itself.  Rings and frames already received stay readable."""
        self.client.close()
        for fd in self._vectors:
            os.close(fd)
        self._vectors.clear()
        self.queues.clear()
        if self.memory is not None:
            self.memory.close()
            self.memory = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Inside

    def _negotiate(self, *, with_version: bool) -> None:
        """Admin queues, version and resources: the VF is known afterwards."""
        self.channel.open()
        if with_version:
            body = self.channel.request(Op.VERSION, Version(VERSION_MAJOR, VERSION_MINOR))
            version = Version.decode(body)
            if (version.major, version.minor) != (VERSION_MAJOR, VERSION_MINOR):
                raise DeviceError(f"PF speaks virtchnl {version.major}.{version.minor}, not 1.1")
        body = self.channel.request(Op.GET_VF_RESOURCES, CapRequest(self._caps))
        self.resources = VfResources.decode(body)
        self._requests = QueueRequests(self.channel, self.resources)
        self.settings.vsi_id = self.resources.vsi_id
        self.settings.vlan_version = 1 if Cap.VLAN in self.caps else 2

    def _recover(self, *, with_version: bool = False) -> None:
        """After a reset has begun: wait for its end, then set up again what ran before."""
        self._wait_reset_done()
        self._negotiate(with_version=with_version)
        for queue in self.queues:
            queue.rewind()
        self.settings.replay()
        if self.queues:
            self._enable()

    def _wait_reset_done(self) -> None:
        """The admin queue is off and RSTAT says that the VF is active again."""
        deadline = time.monotonic() + RESET_TIMEOUT_S
        while self._admin.is_enabled or self._rstat() != Rstat.VFR_ACTIVE:
            if time.monotonic() > deadline:
                raise DeviceError(f"reset not finished, VFGEN_RSTAT={self._rstat()}")
            time.sleep(0.001)

    def _rstat(self) -> int:
        return self.bar.read32(regs.VFGEN_RSTAT.offset) & 3

    def _enable(self) -> None:
        numbers = range(len(self.queues))
        self._requests.configure(self.queues, self._allowed_frame())
        self._requests.map_vectors(numbers, tx=self._interrupts)
        for queue in numbers:
            self._write_dyn_ctl(queue, regs.DynCtl.WB_ON_ITR)
        self._requests.enable(numbers, numbers)

    def _allowed_frame(self) -> int:
        """The longest frame to receive: after a reset the PF may allow less than before."""
        allowed = self.resources.max_mtu
        return min(self._max_frame or allowed, allowed)

    def _write_dyn_ctl(self, queue: int, bits: regs.DynCtl) -> None:
        none = regs.DYN_CTL_ITR_NONE << regs.DYN_CTL_ITR_SHIFT
        vector = self._requests.vector(queue)
        self.bar.write32(regs.VFINT_DYN_CTLN1.at(vector - 1), bits | none)

    def _free_queues(self) -> None:
        for queue in self.queues:
            queue.free()
        self.queues.clear()

    def _express_cap(self) -> int:
        """Where the PCI Express capability stands; the list is followed 48 steps at most."""
        config = self.client.region_read(RegionIndex.CONFIG, 0, 256)
        at = config[_CAP_POINTER]
        for _ in range(48):
            if at == 0:
                break
            if config[at] == _CAP_EXPRESS:
                return at
            at = config[at + 1]
        raise DeviceError("no PCI Express capability")
