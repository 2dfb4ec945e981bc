"""The data path of one device in a real engine whose workers do not run: every grace is instant."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from emuiavf.datapath._switch import is_promised
from emuiavf.datapath.engine import Engine
from emuiavf.emudev import registry, vdev
from emuiavf.emudev.info import (
    DeviceConf,
    DmaProt,
    MemRegion,
    ResetReason,
    RssConfig,
    RxFilter,
    RxQueueConfig,
    TxQueueConfig,
    TxShaping,
    VectorMap,
    VlanOffload,
)
from emuiavf.errors import MemoryFault, StateError
from emuiavf.iavf import regs
from emuiavf.iavf.backend import RingBackend
from emuiavf.iavf.device import IavfDevice
from emuiavf.iavf.options import OPTIONS
from emuiavf.loop import Loop
from emuiavf.policy import VfPolicy

RAM_SIZE = 1 << 20


class Rig:
    def __init__(self, workers: int = 1) -> None:
        self.loop = Loop()
        self.engine = Engine(workers)
        args = vdev.parse("emu_iavf8,queues=2,max-queues=2")
        self.device = IavfDevice(args.name, vdev.resolve(args, OPTIONS), self.loop)
        self.emu = self.device.emu
        self.emu.configure(DeviceConf())
        self.backend = RingBackend(self.device, self.engine)
        self.emu.start()
        self.ram = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.ram, RAM_SIZE)
        region = MemRegion(0, RAM_SIZE, DmaProt.READ | DmaProt.WRITE, True)
        self.device.dma_map(region, os.dup(self.ram), 0)

    def close(self) -> None:
        self.device.detached()
        self.emu.stop()
        self.backend.close()
        self.emu.close()
        registry.release(self.emu)
        self.engine.stop()
        self.loop.close()
        os.close(self.ram)

    def graces(self, call: Callable[[], None]) -> list[int]:
        """How often `call` makes each worker acknowledge something."""
        before = self.engine.graces()
        call()
        return [now - then for now, then in zip(self.engine.graces(), before, strict=True)]

    def configure(self, index: int = 0, ring: int = 0x1000) -> None:
        self.emu.configure_tx(TxQueueConfig(index, 64, ring))
        self.emu.configure_rx(RxQueueConfig(index, 64, ring + 0x1000, 2048, 1534))


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_queues_run_from_enable_to_disable(rig: Rig) -> None:
    rig.configure()
    rig.emu.enable_queues(1, 1)
    vf = rig.backend.endpoint
    assert (vf.rx_enabled, vf.tx_enabled, len(vf.active_sources())) == (1, 1, 1)
    rig.emu.disable_queues(1, 1)
    assert (vf.rx_enabled, vf.tx_enabled, vf.active_sources()) == (0, 0, [])


def test_ring_outside_of_memory_is_refused_and_nothing_runs(rig: Rig) -> None:
    rig.configure(0)
    rig.configure(1, RAM_SIZE - 0x400)
    with pytest.raises(MemoryFault):
        rig.emu.enable_queues(3, 3)
    assert rig.backend.endpoint.tx_enabled == 0


def test_reset_stops_and_forgets_the_queues(rig: Rig) -> None:
    rig.configure()
    rig.emu.enable_queues(1, 1)
    rig.emu.map_vectors((VectorMap(1, 1, 1, 0, 1),))
    rig.emu.reset()
    vf = rig.backend.endpoint
    assert (vf.rx_enabled, vf.tx_enabled) == (0, 0)
    vf.enable(1, 1)
    assert (vf.rx_enabled, vf.tx_enabled) == (0, 0)


def test_settings_reach_the_data_path(rig: Rig) -> None:
    rx_filter = RxFilter(frozenset({b"\x02\0\0\0\0\1"}), promisc_multicast=True)
    rig.emu.set_rx_filter(rx_filter)
    rig.emu.set_rss(RssConfig(hena=1 << 33))
    rig.emu.set_vlan_offload(VlanOffload(strip=True))
    assert rig.backend.endpoint.rx_filter == rx_filter


def test_opening_the_admin_queue_forgets_the_transmit_tails_of_before(rig: Rig) -> None:
    """Those of queues that are configured stay."""
    rig.configure(1)
    tails = [regs.QTX_TAIL1.at(queue) for queue in range(2)]
    for tail in tails:
        rig.device.region_write(0, tail, b"\x03\0\0\0")
    rig.device.region_write(0, regs.ATQLEN1.offset, b"\x40\0\0\x80")
    assert [rig.device.region_read(0, tail, 4) for tail in tails] == [bytes(4), b"\x03\0\0\0"]


def test_promise_of_the_host_reaches_the_workers_and_leaves_them_again(rig: Rig) -> None:
    for rate in (5, 0):
        rig.backend.set_policy(replace(VfPolicy(), min_rate=rate))
        assert is_promised(rig.backend.endpoint) is bool(rate)


def test_shaping_reaches_the_data_path(rig: Rig) -> None:
    """And one of no change wakes nobody."""
    rig.emu.set_tx_shaping(TxShaping({0: 500}, {1: 256}))
    rig.emu.set_tx_shaping(TxShaping())
    assert rig.graces(lambda: rig.emu.set_tx_shaping(TxShaping({1: 500}))) == [0]


def test_vector_fires_its_eventfd_when_it_is_armed(rig: Rig) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    rig.device.set_irq_eventfds(2, 0, [fd])
    rig.backend.raise_vector(0)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)
    rig.emu.set_bus_master(True)
    rig.backend.write_dyn_ctl(0, 0x19)
    assert os.eventfd_read(fd) == 1
    assert rig.backend.read_dyn_ctl(0) & 1 == 0


def test_throttling_interval_is_kept_by_index(rig: Rig) -> None:
    rig.backend.write_itr(1, 0, 62)
    assert [rig.backend.read_itr(index, 0) for index in range(3)] == [0, 62, 0]


def test_closed_backend_has_left_engine_and_device(rig: Rig) -> None:
    rig.emu.stop()
    rig.backend.close()
    with pytest.raises(StateError):
        rig.engine.connect(rig.backend.endpoint)
    rig.backend = RingBackend(rig.device, rig.engine)
    rig.emu.start()


def vf_reset(rig: Rig) -> None:
    """What a VF reset tells the data path."""
    rig.emu.reset()
    rig.emu.set_rx_filter(RxFilter(frozenset({b"\x02\0\0\0\0\1"})))
    rig.emu.set_rss(RssConfig(hena=1))
    rig.emu.set_flows(())
    rig.emu.set_vlan_offload(VlanOffload())


def function_reset(rig: Rig) -> None:
    rig.device.region_write(7, 0xA9, b"\x80")


def client_reset(rig: Rig) -> None:
    rig.device.reset(ResetReason.CLIENT)


def new_eventfds(rig: Rig) -> None:
    fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(17)]
    rig.device.set_irq_eventfds(2, 0, fds)


def mask_all(rig: Rig) -> None:
    new_eventfds(rig)
    rig.device.mask_irqs(2, range(17), True)


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (vf_reset, 1),
        # And one for the bus master that goes off.
        (function_reset, 2),
        (client_reset, 2),
        (lambda rig: rig.emu.enable_queues(1, 1), 1),
        (lambda rig: rig.emu.disable_queues(1, 1), 1),
        (lambda rig: rig.emu.set_rss(RssConfig()), 0),
        (lambda rig: rig.emu.set_bus_master(True), 0),
        (lambda rig: rig.device.dma_unmap(0, RAM_SIZE), 1),
        (new_eventfds, 1),
        (mask_all, 2),
    ],
    ids=lambda p: getattr(p, "__name__", str(p)),
)
def test_a_change_asks_its_own_workers_once_and_others_never(
    change: Callable[[Rig], None], most: int
) -> None:
    rig = Rig(workers=2)
    rig.device.region_write(7, 4, b"\x06\x00")
    rig.engine.connect(rig.backend.endpoint)
    rig.configure()
    rig.emu.enable_queues(1, 1)
    assert rig.graces(lambda: change(rig)) == [most, 0]
    rig.close()


def test_a_device_with_two_workers_asks_both() -> None:
    rig = Rig(workers=3)
    rig.engine.connect(rig.backend.endpoint)
    rig.configure(0)
    rig.configure(1, 0x8000)
    rig.emu.enable_queues(3, 3)
    assert rig.graces(rig.emu.memory_changed) == [1, 1, 0]
    rig.emu.disable_queues(2, 2)
    assert rig.graces(rig.emu.memory_changed) == [1, 0, 0]
    rig.close()


def test_tables_that_nobody_waits_for_do_not_pile_up(rig: Rig) -> None:
    for number in range(1000):
        rig.emu.set_rss(RssConfig(hena=number))
        rig.emu.set_rx_filter(RxFilter(frozenset({number.to_bytes(6, "big")})))
        rig.emu.set_vlan_offload(VlanOffload(strip=bool(number & 1)))
        assert rig.backend.endpoint.retired < 40
