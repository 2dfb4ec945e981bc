"""One emulated device as its surroundings see it, whatever its model.

Three faces: lifecycle (for the wiring), backend-facing (for a data path) and provider-facing (for
the device model, which pushes what is true now through `Sink`).  What was pushed is recorded here,
and the getters and every subscriber are served from this record: it is the one truth.

All calls come from the control thread.  eventfds and regions stay the provider's; subscribers
borrow them until the call that takes them away has returned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Protocol

from emuiavf._dma import MemTable
from emuiavf.emudev.info import (
    DeviceConf,
    DeviceInfo,
    DoorbellInfo,
    FlowRule,
    IrqInfo,
    MemRegion,
    QueueInfo,
    RssConfig,
    RxFilter,
    RxQueueConfig,
    Sink,
    TxQueueConfig,
    TxShaping,
    VectorMap,
    VlanOffload,
)
from emuiavf.errors import ConfigError, EmuIavfError, StateError
from emuiavf.stats import Segment


class DeviceState(Enum):
    ALLOCATED = "allocated"
    CONFIGURED = "configured"
    STARTED = "started"
    CLOSED = "closed"


# Prohibited, and why:
#   ALLOCATED  start      sizes and attributes are not decided yet
#   STARTED    configure  subscribers have laid out their tables by the present sizes
#   STARTED    start      the record would be replayed on top of itself
#   STARTED    close      workers may be in guest memory that would go away
#   others     stop       there is nothing to drain; the caller has lost count
#   CLOSED     anything   memory and eventfds are gone
TRANSITIONS: dict[tuple[DeviceState, str], DeviceState] = {
    (DeviceState.ALLOCATED, "configure"): DeviceState.CONFIGURED,
    (DeviceState.CONFIGURED, "configure"): DeviceState.CONFIGURED,
    (DeviceState.CONFIGURED, "start"): DeviceState.STARTED,
    (DeviceState.STARTED, "stop"): DeviceState.CONFIGURED,
    (DeviceState.ALLOCATED, "close"): DeviceState.CLOSED,
    (DeviceState.CONFIGURED, "close"): DeviceState.CLOSED,
}


class ProviderOps(Protocol):
    """What a device asks of its provider; a provider overrides what concerns it."""

    def configure(self, conf: DeviceConf) -> None:
        """Check and take over `conf`; ConfigError leaves everything as it was."""

    def start(self) -> None:
        """The device may be used from now on."""

    def stop(self) -> None:
        """The data path has let go of the device already."""

    def close(self) -> None:
        """Give back every fd, mapping and timer."""

    def set_attr(self, name: str, value: str) -> None:
        """Act on a new value of an attribute; ConfigError refuses it."""


class EmuDevice:
    """A device between its provider and its data paths; satisfies `Sink`."""

    def __init__(self, info: DeviceInfo, mem: MemTable, stats: Segment, ops: ProviderOps) -> None:
        """`mem` is the guest's memory; `stats` has the rows of `max_queue_pairs` and is closed
        with the device."""
        self.state = DeviceState.ALLOCATED
        self.mem = mem
        self.stats = stats
        self._info = info
        self._ops = ops
        self._sinks: list[Sink] = []
        self._attrs = dict(info.attrs)
        self._regions: dict[str, memoryview] = {}
        self._doorbells: tuple[DoorbellInfo, ...] = ()
        self._irqs: dict[int, int] = {}
        self._bus_master = False
        self._forget()

    # Lifecycle

    def configure(self, conf: DeviceConf) -> None:
        """Take over what the host decided; ConfigError when a value is refused."""
        after = self._next("configure")
        num_queue_pairs = conf.num_queue_pairs or self._info.num_queue_pairs
        if num_queue_pairs > self._info.max_queue_pairs:
            raise ConfigError(
                f"{self._info.name}: {num_queue_pairs} queue pairs, "
                f"at most {self._info.max_queue_pairs}"
            )
        for name in conf.attrs:
            self._check_attr(name)
        self._ops.configure(conf)
        self._attrs.update(conf.attrs)
        self._info = replace(self._info, num_queue_pairs=num_queue_pairs)
        self.stats.num_pairs = num_queue_pairs
        self.state = after

    def start(self) -> None:
        """Let the subscribers work: what is true now is replayed to each of them."""
        after = self._next("start")
        self._ops.start()
        try:
            for sink in self._sinks:
                self._replay(sink)
        except EmuIavfError:
            for sink in self._sinks:
                sink.reset()
            self._ops.stop()
            raise
        self.state = after

    def stop(self) -> None:
        """Drain: no subscriber touches the device any more when this returns; all is remembered."""
        after = self._next("stop")
        for sink in self._sinks:
            sink.reset()
        self._ops.stop()
        self.state = after

    def close(self) -> None:
        """The end of the device; its provider gives back what it holds."""
        after = self._next("close")
        self._sinks.clear()
        self._regions.clear()
        self.state = after
        self._ops.close()
        self.stats.close()

    # Backend-facing

    def info(self) -> DeviceInfo:
        return replace(self._info, attrs=dict(self._attrs))

    def subscribe(self, sink: Sink) -> None:
        """Push to `sink` from now on, beginning with what is true now (at `start` if stopped)."""
        self._check_open()
        if sink in self._sinks:
            raise StateError(f"{self._info.name}: subscribed twice")
        if self.state is DeviceState.STARTED:
            self._replay(sink)
        self._sinks.append(sink)

    def unsubscribe(self, sink: Sink) -> None:
        """Push nothing more to `sink`; its queues are off when this returns."""
        if sink not in self._sinks:
            raise StateError(f"{self._info.name}: not subscribed")
        self._sinks.remove(sink)
        if self.state is DeviceState.STARTED:
            sink.reset()

    def mem_table(self) -> tuple[MemRegion, ...]:
        """The client's DMA maps as they are now."""
        return self.mem.regions

    def queue_info(self, index: int) -> QueueInfo:
        """What is known of queue pair `index`; StateError when there is no such pair."""
        self._check_index("queue", index, self._info.max_queue_pairs)
        return QueueInfo(
            self._tx.get(index),
            self._rx.get(index),
            bool(self._tx_enabled >> index & 1),
            bool(self._rx_enabled >> index & 1),
        )

    def irq_info(self, vector: int) -> IrqInfo:
        self._check_index("vector", vector, self._info.num_vectors)
        return IrqInfo(vector, self._irqs.get(vector), self._vectors.get(vector))

    def doorbell_info(self, index: int) -> DoorbellInfo:
        self._check_index("doorbell", index, len(self._doorbells))
        return self._doorbells[index]

    def map_region(self, name: str, size: int) -> memoryview:
        """The first `size` bytes of the device's own memory called `name`, shared and writable."""
        region = self._regions.get(name)
        if region is None or size > len(region):
            raise StateError(f"{self._info.name}: no region {name!r} of {size} bytes")
        return region[:size]

    def get_attr(self, name: str) -> str:
        self._check_attr(name)
        return self._attrs[name]

    def set_attr(self, name: str, value: str) -> None:
        """Change an attribute of the running device; ConfigError when it is refused."""
        self._check_attr(name)
        self._ops.set_attr(name, value)
        self._attrs[name] = value

    # Provider-facing, beside Sink

    def provide_region(self, name: str, memory: memoryview) -> None:
        """Memory that `map_region` hands out."""
        self._regions[name] = memory

    def provide_doorbells(self, doorbells: Sequence[DoorbellInfo]) -> None:
        """Where the tails are, by queue pair."""
        self._doorbells = tuple(doorbells)

    def record_attr(self, name: str, value: str) -> None:
        """Note an attribute that the guest has changed."""
        self._attrs[name] = value

    # Sink.  What gives something is recorded when every subscriber has taken it, what takes
    # something away is recorded first: an exception never leaves more recorded than is true.

    def configure_tx(self, queue: TxQueueConfig) -> None:
        self._check_index("queue", queue.index, self._info.max_queue_pairs)
        for sink in self._active():
            sink.configure_tx(queue)
        self._tx[queue.index] = queue

    def configure_rx(self, queue: RxQueueConfig) -> None:
        self._check_index("queue", queue.index, self._info.max_queue_pairs)
        for sink in self._active():
            sink.configure_rx(queue)
        self._rx[queue.index] = queue

    def enable_queues(self, rx: int, tx: int) -> None:
        """All subscribers run the queues, or none does and the first one's error is raised."""
        if rx & ~_bitmap(self._rx) or tx & ~_bitmap(self._tx):
            raise StateError(f"{self._info.name}: rx={rx:#x} tx={tx:#x} not all configured")
        taken: list[Sink] = []
        try:
            for sink in self._active():
                sink.enable_queues(rx, tx)
                taken.append(sink)
        except EmuIavfError:
            for sink in taken:
                sink.disable_queues(rx & ~self._rx_enabled, tx & ~self._tx_enabled)
            raise
        self._rx_enabled |= rx
        self._tx_enabled |= tx

    def disable_queues(self, rx: int, tx: int) -> None:
        self._rx_enabled &= ~rx
        self._tx_enabled &= ~tx
        for sink in self._active():
            sink.disable_queues(rx, tx)

    def map_vectors(self, maps: Sequence[VectorMap]) -> None:
        for entry in maps:
            self._check_index("vector", entry.vector, self._info.num_vectors)
        self._vectors.update({entry.vector: entry for entry in maps})
        for sink in self._active():
            sink.map_vectors(maps)

    def set_irqs(self, eventfds: Mapping[int, int | None]) -> None:
        """The old eventfds of these vectors may be closed when this returns."""
        for vector in eventfds:
            self._check_index("vector", vector, self._info.num_vectors)
        for vector, eventfd in eventfds.items():
            if eventfd is None:
                self._irqs.pop(vector, None)
            else:
                self._irqs[vector] = eventfd
        for sink in self._active():
            sink.set_irqs(eventfds)

    def set_rx_filter(self, rx_filter: RxFilter) -> None:
        self._rx_filter = rx_filter
        for sink in self._active():
            sink.set_rx_filter(rx_filter)

    def set_rss(self, rss: RssConfig) -> None:
        self._rss = rss
        for sink in self._active():
            sink.set_rss(rss)

    def set_flows(self, rules: Sequence[FlowRule]) -> None:
        self._flows: tuple[FlowRule, ...] = tuple(rules)
        for sink in self._active():
            sink.set_flows(self._flows)

    def set_vlan_offload(self, vlan: VlanOffload) -> None:
        self._vlan = vlan
        for sink in self._active():
            sink.set_vlan_offload(vlan)

    def set_tx_shaping(self, shaping: TxShaping) -> None:
        self._shaping = shaping
        for sink in self._active():
            sink.set_tx_shaping(shaping)

    def set_bus_master(self, enabled: bool) -> None:
        self._bus_master = enabled
        for sink in self._active():
            sink.set_bus_master(enabled)

    def memory_changed(self) -> None:
        for sink in self._active():
            sink.memory_changed()

    def reset(self) -> None:
        """Queues off and unconfigured, all settings at their defaults.

        eventfds and bus master stay: the first belong to the client, the second to PCI.
        """
        self._forget()
        for sink in self._active():
            sink.reset()

    def _forget(self) -> None:
        self._tx: dict[int, TxQueueConfig] = {}
        self._rx: dict[int, RxQueueConfig] = {}
        self._tx_enabled = 0
        self._rx_enabled = 0
        self._vectors: dict[int, VectorMap] = {}
        self._rx_filter = RxFilter()
        self._rss = RssConfig()
        self._flows = ()
        self._vlan = VlanOffload()
        self._shaping = TxShaping()

    def _replay(self, sink: Sink) -> None:
        """Bring `sink` from its reset state to what is true now; queues run last."""
        sink.memory_changed()
        sink.set_bus_master(self._bus_master)
        if self._irqs:
            sink.set_irqs(dict(self._irqs))
        sink.set_rx_filter(self._rx_filter)
        sink.set_rss(self._rss)
        sink.set_flows(self._flows)
        sink.set_vlan_offload(self._vlan)
        sink.set_tx_shaping(self._shaping)
        if self._vectors:
            sink.map_vectors(tuple(self._vectors.values()))
        for tx in self._tx.values():
            sink.configure_tx(tx)
        for rx in self._rx.values():
            sink.configure_rx(rx)
        if self._rx_enabled | self._tx_enabled:
            sink.enable_queues(self._rx_enabled, self._tx_enabled)

    def _active(self) -> tuple[Sink, ...]:
        self._check_open()
        return tuple(self._sinks) if self.state is DeviceState.STARTED else ()

    def _next(self, call: str) -> DeviceState:
        after = TRANSITIONS.get((self.state, call))
        if after is None:
            raise StateError(f"{self._info.name}: {call}() while {self.state.value}")
        return after

    def _check_open(self) -> None:
        if self.state is DeviceState.CLOSED:
            raise StateError(f"{self._info.name}: closed")

    def _check_index(self, what: str, index: int, count: int) -> None:
        if not 0 <= index < count:
            raise StateError(f"{self._info.name}: {what} {index}, there are {count}")

    def _check_attr(self, name: str) -> None:
        if name not in self._attrs:
            raise ConfigError(
                f"{self._info.name}: no attribute {name!r}; there are {', '.join(self._attrs)}"
            )


def _bitmap(indexes: dict[int, TxQueueConfig] | dict[int, RxQueueConfig]) -> int:
    return sum(1 << index for index in indexes)
