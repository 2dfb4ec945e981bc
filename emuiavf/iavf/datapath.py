"""Between virtchnl and the data path: passes facts on, refuses to start queues on lost memory."""

from collections.abc import Callable, Mapping, Sequence

from emuiavf._phc import phc_ns
from emuiavf.emudev.device import EmuDevice
from emuiavf.emudev.info import (
    EthStats,
    FlowRule,
    RssConfig,
    RxFilter,
    RxQueueConfig,
    TxQueueConfig,
    TxShaping,
    VectorMap,
    VlanOffload,
)
from emuiavf.errors import MemoryFault
from emuiavf.iavf.memory import GuestRam


class Datapath:
    """The virtchnl session's view: the device's Sink, counters, the PTP clock, and a guard before
    the start."""

    def __init__(self, emu: EmuDevice, ram: GuestRam, stats: Callable[[], EthStats]) -> None:
        self._emu = emu
        self._ram = ram
        self._stats = stats

    def eth_stats(self) -> EthStats:
        return self._stats()

    def phc_ns(self) -> int:
        return phc_ns()

    def enable_queues(self, rx: int, tx: int) -> None:
        """MemoryFault when guest memory has vanished, or a ring lies in none."""
        if self._ram.broken:
            raise MemoryFault("ENABLE_QUEUES: the guest's memory has vanished")
        try:
            self._emu.enable_queues(rx, tx)
        except MemoryFault:
            self._ram.suspect()
            raise

    def configure_tx(self, queue: TxQueueConfig) -> None:
        self._emu.configure_tx(queue)

    def configure_rx(self, queue: RxQueueConfig) -> None:
        self._emu.configure_rx(queue)

    def disable_queues(self, rx: int, tx: int) -> None:
        self._emu.disable_queues(rx, tx)

    def map_vectors(self, maps: Sequence[VectorMap]) -> None:
        self._emu.map_vectors(maps)

    def set_irqs(self, eventfds: Mapping[int, int | None]) -> None:
        self._emu.set_irqs(eventfds)

    def set_rx_filter(self, rx_filter: RxFilter) -> None:
        self._emu.set_rx_filter(rx_filter)

    def set_rss(self, rss: RssConfig) -> None:
        self._emu.set_rss(rss)

    def set_flows(self, rules: Sequence[FlowRule]) -> None:
        self._emu.set_flows(rules)

    def set_vlan_offload(self, vlan: VlanOffload) -> None:
        self._emu.set_vlan_offload(vlan)

    def set_tx_shaping(self, shaping: TxShaping) -> None:
        self._emu.set_tx_shaping(shaping)

    def set_bus_master(self, enabled: bool) -> None:
        self._emu.set_bus_master(enabled)

    def memory_changed(self) -> None:
        self._emu.memory_changed()

    def reset(self) -> None:
        self._emu.reset()
