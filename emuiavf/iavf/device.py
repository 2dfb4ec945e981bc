"""The iavf function as a vfio-user client sees it: regions, interrupts, DMA maps and resets.

Composition only: configuration space and MSI-X of `pci`, registers, doorbells and admin queues of
this package, the virtchnl session, and the device record that feeds the data path.  Satisfies
`vfio_user.session.DeviceOps` by shape.  Everything is called from the control thread.
"""

import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from emuiavf._dma import MemTable
from emuiavf._ring_watch import RegisterWatch
from emuiavf.emudev import registry
from emuiavf.emudev.info import (
    DeviceConf,
    DeviceDescription,
    DeviceInfo,
    DoorbellInfo,
    EthStats,
    MemRegion,
    RegionInfo,
    ResetReason,
)
from emuiavf.errors import ConfigError
from emuiavf.iavf import regs
from emuiavf.iavf.adminq import AdminQueue, Faults
from emuiavf.iavf.bar0 import Bar0
from emuiavf.iavf.channel import Channel
from emuiavf.iavf.datapath import Datapath
from emuiavf.iavf.doorbells import Doorbells
from emuiavf.iavf.guestlog import GuestLog
from emuiavf.iavf.inject import Injector, Sabotage
from emuiavf.iavf.interrupts import InterruptRegisters, VectorControl
from emuiavf.iavf.memory import GuestRam
from emuiavf.iavf.reset import Cause, ResetMachine, ResetState, Timer
from emuiavf.iavf.shared import SharedFile
from emuiavf.iavf.vectors import MsixVectors, Vectors
from emuiavf.loop import Loop
from emuiavf.pci.config_space import CONFIG_SIZE, Bar, Command, ConfigSpace, Identity
from emuiavf.pci.msix import MsixLayout
from emuiavf.policy import VfPolicy
from emuiavf.stats import eth_stats
from emuiavf.virtchnl.session import Link, Reply, Session, VfLimits
from emuiavf.virtchnl.state import MAX_PLAIN_QUEUE_PAIRS

_log = logging.getLogger(__name__)

MODEL = "emu_iavf"
IDENTITY = Identity(
    vendor=0x8086,
    device=0x1889,
    class_code=0x020000,
    revision=0x02,
    subsystem_vendor=0x8086,
    subsystem_device=0x1889,
)
BAR3_SIZE = 0x4000
PBA_OFFSET = 0x2000
DOORBELLS = "doorbells"
# In shared memory the registers of a new ATQ are not written at once; this is ample.
SETTLE_S = 0.002
# VFIO PCI indexes of regions and interrupts.
REGION_BAR0, REGION_BAR3, REGION_CONFIG, NUM_REGIONS = 0, 3, 7, 9
IRQ_MSIX, IRQ_ERR, NUM_IRQS = 2, 3, 5


class DataPathControl(VectorControl, Protocol):
    """What the device asks of its data path beyond the facts of `Sink`.

    `take_faults()` tells (direction, queue, reason) of queues stopped since the last call; the
    device's `fault_fd` is signalled when there are any.  `forget_tx_tails()` clears the doorbells
    of Tx queues that nobody has configured.  `set_policy` is called once when the two meet, too.
    `flow_hits()` tells how many frames each rule has matched, by its id.
    """

    @property
    def sabotage(self) -> Sabotage: ...
    def set_policy(self, policy: VfPolicy) -> None: ...
    def take_faults(self) -> list[tuple[str, int, str]]: ...
    def forget_tx_tails(self) -> None: ...
    def flow_hits(self) -> dict[int, int]: ...


def _sizes(name: str, options: dict[str, Any]) -> tuple[int, int, int]:
    """Queue pairs at first and at most, and the size of the MSI-X table: fixed for the life of the
    device, as clients cache it."""
    queues = options["queues"]
    most = options["max-queues"] or max(queues, MAX_PLAIN_QUEUE_PAIRS)
    if queues > most:
        raise ConfigError(f"{name}: queues={queues} is more than max-queues={most}")
    plain = most <= MAX_PLAIN_QUEUE_PAIRS
    return (
        queues,
        most,
        options["vectors"] or (MAX_PLAIN_QUEUE_PAIRS + 1 if plain else regs.MAX_VECTORS),
    )


class IavfDevice:
    """One virtual function; `emu` is its record, to which data paths subscribe."""

    def __init__(self, name: str, options: dict[str, Any], loop: Loop) -> None:
        """`options` by `options.OPTIONS`; ConfigError when they contradict each other."""
        queues, max_queues, vectors = _sizes(name, options)
        # Random and locally administered: two backends on one network may have equal names.
        mac = options["mac"] or b"\x02" + secrets.token_bytes(5)
        attrs = {"mac": mac.hex(":"), "doorbell": options["doorbell"], "link": "up"}
        self.name = name
        self.malicious = 0  # queues stopped for what the guest put into them
        self._loop = loop
        self._log = GuestLog(_log, name)
        self._mapped = options["doorbell"] != "trap"
        self._control: DataPathControl | None = None
        self.has_client = False
        self.inject = Injector(self, loop.call_later)
        self.fault_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._doorbells = Doorbells(name, whole=options["doorbell"] == "shared")
        self._shared: SharedFile | None = None
        self._settling: Timer | None = None
        self.emu = registry.allocate(
            DeviceInfo(name, MODEL, queues, max_queues, vectors, attrs),
            MemTable(self.fault_fd),
            self,
        )
        self._provide_doorbells(max_queues)
        # A log of its own: the one line that tells the user what to do must not be left out.
        self._ram = GuestRam(self.emu.mem, self.emu.memory_changed, GuestLog(_log, name))
        self._make_pci(vectors)
        if options["doorbell"] == "shared":
            self._stores_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._shared = SharedFile(self._doorbells.memory, self._stores_fd)
            loop.add_reader(self._stores_fd, self._on_stores)
        self._make_vf(
            VfPolicy(mac=mac), VfLimits(queues, max_queues, vectors, offered=options["caps"])
        )
        loop.add_reader(self.fault_fd, self._on_fault)

    def _provide_doorbells(self, max_queues: int) -> None:
        self.emu.provide_region(DOORBELLS, self._doorbells.memory)
        self.emu.provide_doorbells(
            [
                DoorbellInfo(
                    DOORBELLS, regs.QTX_TAIL1.at(i), regs.QRX_TAIL1.at(i), polled=self._mapped
                )
                for i in range(max_queues)
            ]
        )

    def _make_pci(self, vectors: int) -> None:
        layout = MsixLayout(vectors, REGION_BAR3, 0, PBA_OFFSET)
        self._vectors = MsixVectors(layout, self.emu.set_irqs)
        self._error_vector = Vectors(1, lambda fds: None)
        self._config = ConfigSpace(
            IDENTITY,
            {REGION_BAR0: Bar(regs.BAR0_SIZE), REGION_BAR3: Bar(BAR3_SIZE)},
            layout,
            on_command=self._on_command,
            on_flr=self._on_flr,
            on_msix=self._vectors.set_control,
        )

    def _make_vf(self, policy: VfPolicy, limits: VfLimits) -> None:
        self._bar0 = Bar0(self._doorbells, self._shared)
        self._bar0.file.set(regs.VFGEN_RSTAT, regs.Rstat.VFR_ACTIVE)
        self._interrupts = InterruptRegisters(self._bar0, limits.num_vectors)
        self._adminq = AdminQueue(self.emu.mem, self._bar0.file, self._interrupts.on_delivered)
        self._resets = ResetMachine(self, self._loop.call_later)
        self._session = Session(policy, limits, Datapath(self.emu, self._ram, self._eth_stats))
        self._channel = Channel(
            self._adminq,
            self._session,
            self._resets,
            self._loop.call_later,
            self._log,
            tampering=self.inject.tampering,
        )
        self._bar0.on_write[regs.ATQT1.offset] = self._on_atq_tail
        self._bar0.on_write[regs.ATQLEN1.offset] = self._on_atq_set_up
        self._bar0.on_write[regs.ARQT1.offset] = self._on_arq_tail
        for register in (regs.ARQH1, regs.ARQLEN1):
            self._bar0.on_write[register.offset] = self._on_arq_set_up
        if self._shared is not None:
            self._bar0.on_write[regs.ATQH1.offset] = self._on_atq_anew

    @property
    def watch(self) -> RegisterWatch | None:
        """What a worker has to look at when all of BAR0 is shared memory."""
        return self._shared.watch if self._shared is not None else None

    @property
    def adminq_faults(self) -> Faults:
        """What the guest did wrong in its admin queues."""
        return self._adminq.faults

    def connect(self, control: DataPathControl | None) -> None:
        """The data path that register writes and vector 0 go to; None takes it away."""
        self._control = control
        self._interrupts.control = control
        if control is not None:
            control.set_policy(self._session.vf.policy)

    def reset_by_host(self, hold_s: float = 0) -> None:
        """Reset the VF as a PF driver does, with RESET_IMPENDING before it; takes `hold_s`."""
        if self._resets.state is ResetState.HELD:
            # Stopped already, with what the host had decided until then.
            self._session.reset()
        self._channel.reset_by_host(hold_s)

    # What `host` and the injections need

    @property
    def session(self) -> Session:
        return self._session

    @property
    def control(self) -> DataPathControl | None:
        return self._control

    @property
    def sabotage(self) -> Sabotage | None:
        return self._control.sabotage if self._control is not None else None

    def wake(self) -> None:
        if self._control is not None:
            self._control.wake()

    @property
    def requests(self) -> int:
        return self._adminq.taken

    @property
    def in_reset(self) -> bool:
        return self._resets.state is not ResetState.ACTIVE

    def post(self, replies: Sequence[Reply]) -> None:
        """Send messages to the VF."""
        self._channel.post(replies)

    def cut_link(self, cut: bool) -> None:
        self._channel.post(self._session.cut_link(cut))

    def reset_without_notice(self) -> None:
        """A function-level reset by the host, whose kernel restores configuration space: a guest
        that was not asked would else write its COMMAND without the BARs' bit."""
        self._resets.perform(Cause.FLR)

    # vfio_user.session.DeviceOps

    def describe(self) -> DeviceDescription:
        regions = [RegionInfo()] * NUM_REGIONS
        areas, fd = (self._doorbells.areas, self._doorbells.fd) if self._mapped else ((), None)
        regions[REGION_BAR0] = RegionInfo(regs.BAR0_SIZE, areas=areas, fd=fd)
        regions[REGION_BAR3] = RegionInfo(BAR3_SIZE)
        regions[REGION_CONFIG] = RegionInfo(CONFIG_SIZE)
        irqs = [0] * NUM_IRQS
        irqs[IRQ_MSIX] = self._vectors.count
        # Never signalled; without it QEMU prints a warning at every start.
        irqs[IRQ_ERR] = self._error_vector.count
        return DeviceDescription(tuple(regions), tuple(irqs))

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        if region == REGION_BAR0:
            self._take_stores()
            return self._bar0.read(offset, count)
        if region == REGION_CONFIG:
            return self._config.read(offset, count)
        return self._vectors.read(offset, count)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        if region == REGION_BAR0:
            self._take_stores()
            self._bar0.write(offset, data)
        elif region == REGION_CONFIG:
            self._config.write(offset, data)
        else:
            self._vectors.write(offset, data)

    def dma_map(self, region: MemRegion, fd: int | None, offset: int) -> None:
        self._ram.map(region, fd, offset)

    def dma_unmap(self, iova: int, size: int) -> None:
        self._ram.unmap(iova, size)

    def dma_unmap_all(self) -> None:
        self._ram.clear()

    def set_irq_eventfds(self, index: int, start: int, fds: Sequence[int | None]) -> None:
        self._vectors_of(index).replace(start, fds)

    def disable_irqs(self, index: int) -> None:
        if index in (IRQ_MSIX, IRQ_ERR):
            self._vectors_of(index).drop()

    def trigger_irqs(self, index: int, vectors: Sequence[int]) -> None:
        self._vectors_of(index).trigger(vectors)

    def mask_irqs(self, index: int, vectors: Sequence[int], masked: bool) -> None:
        if index == IRQ_MSIX:
            self._vectors.mask_by_client(vectors, masked)

    def reset(self, reason: ResetReason) -> None:
        """Registers, configuration space and VF are new; maps and eventfds stay."""
        self._reset_function(Cause.CLIENT if reason is ResetReason.CLIENT else Cause.DISCONNECT)

    def attached(self) -> None:
        """A client is there; the device is as new."""
        self.has_client = True

    def detached(self) -> None:
        """The client is gone: nothing of it stays."""
        self.has_client = False
        self._reset_function(Cause.DISCONNECT)
        self._vectors.drop()
        self._error_vector.drop()
        self._ram.forget_client()

    # emudev.device.ProviderOps

    def configure(self, conf: DeviceConf) -> None:
        for name, value in conf.attrs.items():
            self._check_attr(name, value)
        if conf.num_queue_pairs is not None:
            vf = self._session.vf
            self._channel.close()
            self._resets.close()
            self._make_vf(vf.policy, replace(vf.limits, num_queue_pairs=conf.num_queue_pairs))
            self.connect(self._control)
        for name, value in conf.attrs.items():
            self.set_attr(name, value)

    def start(self) -> None:
        """Nothing to do: clients are let in by the owner of the socket."""

    def stop(self) -> None:
        """Nothing to do: registers and memory stay as the guest has them."""

    def set_attr(self, name: str, value: str) -> None:
        """`link` (up, down) is told to the guest; all else stands in the vdev string."""
        self._check_attr(name, value)
        self._channel.post(self._session.set_link(Link(up=value == "up")))

    def _check_attr(self, name: str, value: str) -> None:
        if name != "link":
            raise ConfigError(f"{self.name}: {name} is fixed by the vdev string")
        if value not in ("up", "down"):
            raise ConfigError(f"{self.name}: link={value}: up or down")

    def close(self) -> None:
        """Give back fds, memory and timers; data path and client are gone already."""
        self._loop.remove(self.fault_fd)
        self.inject.close()
        if self._shared is not None:
            self._loop.remove(self._stores_fd)
            os.close(self._stores_fd)
        if self._settling is not None:
            self._settling.cancel()
        self._channel.close()
        self._resets.close()
        self._vectors.close()
        self._error_vector.close()
        self.emu.mem.unmap_all()
        self.emu.mem.reclaim()
        self._doorbells.close()
        os.close(self.fault_fd)

    # Steps of a reset

    def show_in_progress(self) -> None:
        self._bar0.file.set(regs.VFGEN_RSTAT, regs.Rstat.IN_PROGRESS)

    def stop_vf(self, cause: Cause) -> None:
        if cause.is_function_level:
            self._session.restart()
        else:
            self._session.reset()

    def clear_registers(self) -> None:
        # First: who maps BAR0 may look between any two of these.
        self.show_in_progress()
        self._doorbells.clear()
        self._adminq.reset()
        self._interrupts.reset()
        self._bar0.reset()

    def activate(self) -> None:
        self._bar0.file.set(regs.VFGEN_RSTAT, regs.Rstat.VFR_ACTIVE)
        # A driver that did not wait for it has rung already.
        self._channel.run()

    def _reset_function(self, cause: Cause) -> None:
        self._resets.perform(cause)
        self._config.reset()
        self._vectors.reset()

    # Events

    def _on_atq_tail(self) -> None:
        self._channel.run()
        self._look_for_unshared_memory()

    def _on_atq_anew(self) -> None:
        """A ring set up anew and rung between two looks: its tail may be the old one's again."""
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLE_S, self._on_atq_settled)

    def _on_atq_settled(self) -> None:
        self._settling = None
        self._take_stores()
        self._on_atq_tail()

    def _on_arq_tail(self) -> None:
        self._channel.deliver()
        self._look_for_unshared_memory()

    def _on_atq_set_up(self) -> None:
        """The first thing that a driver does; until here it may ring for rings of its past."""
        if self._control is not None:
            self._control.forget_tx_tails()

    def _on_arq_set_up(self) -> None:
        self._adminq.arq_set_up()

    def _on_command(self, old: Command, new: Command) -> None:
        enabled = Command.BUS_MASTER in new
        if enabled == (Command.BUS_MASTER in old):
            return
        self._adminq.bus_master = enabled
        self.emu.set_bus_master(enabled)
        if enabled:
            self._channel.deliver()
            self._channel.run()

    def _on_flr(self) -> None:
        """The configuration space resets itself behind this."""
        self._resets.perform(Cause.FLR)
        self._vectors.reset()

    def _on_stores(self) -> None:
        """A worker has seen that the guest has stored into BAR0."""
        try:
            os.eventfd_read(self._stores_fd)
        except BlockingIOError:
            return
        self._take_stores()

    def _take_stores(self) -> None:
        if self._shared is not None:
            self._shared.take(self._bar0.write)

    def _on_fault(self) -> None:
        """A worker has stopped a queue, or a page of guest memory has vanished."""
        try:
            os.eventfd_read(self.fault_fd)
        except BlockingIOError:
            return
        if self._ram.take_fault():
            every_queue = (1 << self.emu.info().max_queue_pairs) - 1
            self.emu.disable_queues(every_queue, every_queue)
        for direction, queue, reason in self._control.take_faults() if self._control else ():
            self.malicious += 1
            self._log.warning(f"{direction} queue {queue} stopped until it is reset: {reason}")
            self._ram.suspect()

    def _look_for_unshared_memory(self) -> None:
        faults = self._adminq.faults
        if faults.bad_ring or faults.bad_buffer:
            self._ram.suspect()
        if faults.blank:
            self._ram.advise()

    def _eth_stats(self) -> EthStats:
        return eth_stats(self.emu.stats)

    def _vectors_of(self, index: int) -> Vectors:
        assert index in (IRQ_MSIX, IRQ_ERR), f"interrupt index {index} has no vectors"
        return self._vectors if index == IRQ_MSIX else self._error_vector
