"""The data path of one iavf device: facts from the device become calls of its `_ring.Vf`.

Publish and grace: each call that takes something from the workers returns when none of them can
still use it.
"""

from collections.abc import Mapping, Sequence

from emuiavf._ring import Vf
from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import (
    FlowRule,
    RssConfig,
    RxFilter,
    RxQueueConfig,
    TxQueueConfig,
    TxShaping,
    VectorMap,
    VlanOffload,
)
from emuiavf.iavf import regs
from emuiavf.iavf.device import DOORBELLS, IavfDevice
from emuiavf.policy import VfPolicy

# Tables that wait to be freed before a grace is asked for on their account alone.
MAX_RETIRED = 32


class RingBackend:
    """`Sink` of one device, its endpoint in the engine and its vectors, until `close`."""

    def __init__(self, device: IavfDevice, engine: Engine) -> None:
        emu = device.emu
        info = emu.info()
        self._device = device
        self._engine = engine
        self._all = (1 << info.max_queue_pairs) - 1
        self._vf = Vf(
            info.name,
            emu.mem,
            emu.map_region(
                DOORBELLS, regs.DOORBELLS_SIZE if device.watch is None else regs.BAR0_SIZE
            ),
            emu.stats.rows,
            info.max_queue_pairs,
            info.num_vectors,
            device.fault_fd,
            polled=emu.doorbell_info(0).polled,
            watch=device.watch,
        )
        self._max_rate = 0
        self._shaping = TxShaping()
        engine.add(self._vf)
        emu.subscribe(self)
        device.connect(self)

    @property
    def endpoint(self) -> Vf:
        return self._vf

    def close(self) -> None:
        """Leave the engine and the device; no worker touches the guest's memory afterwards."""
        self._device.connect(None)
        self._device.emu.unsubscribe(self)
        self.disable_queues(self._all, self._all)
        self._engine.remove(self._vf)

    # Sink

    def configure_tx(self, queue: TxQueueConfig) -> None:
        self._vf.configure_tx(queue)

    def configure_rx(self, queue: RxQueueConfig) -> None:
        self._vf.configure_rx(queue)

    def enable_queues(self, rx: int, tx: int) -> None:
        """MemoryFault when a ring is not in mapped memory; then none is started."""
        self._vf.enable(rx, tx)
        self._publish()

    def disable_queues(self, rx: int, tx: int) -> None:
        self._vf.disable(rx, tx)
        self._publish()

    def map_vectors(self, maps: Sequence[VectorMap]) -> None:
        for entry in maps:
            self._vf.map_vector(entry)

    def set_irqs(self, eventfds: Mapping[int, int | None]) -> None:
        for vector, eventfd in eventfds.items():
            self._vf.set_eventfd(vector, -1 if eventfd is None else eventfd)
        self._settle()

    # Of these five a worker sees the old until the end of its turn, which harms nobody.

    def set_rx_filter(self, rx_filter: RxFilter) -> None:
        if rx_filter != self._vf.rx_filter:
            self._vf.set_filter(rx_filter)
            self._engine.refilter(self._vf)
            self._limit_retired()

    def set_rss(self, rss: RssConfig) -> None:
        self._vf.set_rss(rss)
        self._limit_retired()

    def set_flows(self, rules: Sequence[FlowRule]) -> None:
        if rules or self._vf.flow_hits():
            self._vf.set_flows(rules)
            self._limit_retired()

    def set_vlan_offload(self, vlan: VlanOffload) -> None:
        self._vf.set_vlan(vlan)
        self._limit_retired()

    def set_tx_shaping(self, shaping: TxShaping) -> None:
        if shaping != self._shaping:
            self._shaping = shaping
            self._vf.set_tx_shaping(shaping)
            self.wake()

    def set_bus_master(self, enabled: bool) -> None:
        self._vf.set_bus_master(enabled)
        if not enabled:
            self._settle()

    def memory_changed(self) -> None:
        self._settle()

    def reset(self) -> None:
        self.disable_queues(self._all, self._all)
        self._vf.forget()

    # The device model's own

    def write_dyn_ctl(self, vector: int, value: int) -> None:
        self._vf.write_dyn_ctl(vector, value)

    def read_dyn_ctl(self, vector: int) -> int:
        return self._vf.read_dyn_ctl(vector)

    def write_itr(self, index: int, vector: int, value: int) -> None:
        self._vf.write_itr(index, vector, value)

    def read_itr(self, index: int, vector: int) -> int:
        return self._vf.read_itr(index, vector)

    def raise_vector(self, vector: int) -> None:
        self._vf.raise_vector(vector)

    def wake(self) -> None:
        self._engine.wake(self._vf)

    def forget_tx_tails(self) -> None:
        self._vf.forget_tx_tails()

    def take_faults(self) -> list[tuple[str, int, str]]:
        return self._vf.take_faults()

    def flow_hits(self) -> dict[int, int]:
        return self._vf.flow_hits()

    # What the host imposes

    @property
    def sabotage(self) -> Vf:
        return self._vf

    def set_policy(self, policy: VfPolicy) -> None:
        """What frames show of the host's decisions from now on, as Engine.set_policy has it; and
        the rate."""
        self._engine.set_policy(self._vf, policy)
        self._vf.reclaim()
        if policy.max_rate != self._max_rate:
            self._max_rate = policy.max_rate
            self._vf.set_rate(policy.max_rate)
            self.wake()

    def _publish(self) -> None:
        self._engine.publish(self._vf)
        self._vf.reclaim()

    def _settle(self) -> None:
        """Return when no worker uses anything of this device that was taken away."""
        self._engine.grace(self._vf)
        self._vf.reclaim()

    def _limit_retired(self) -> None:
        if self._vf.retired > MAX_RETIRED:
            self._settle()
