"""EmuDevice: lifecycle, the record, and who is told what."""

from itertools import product
from typing import Any, cast

import pytest

from emuiavf.emudev.device import TRANSITIONS, DeviceState, EmuDevice, ProviderOps
from emuiavf.emudev.info import (
    DeviceConf,
    DeviceInfo,
    DmaProt,
    DoorbellInfo,
    FlowAction,
    FlowBase,
    FlowRule,
    FlowWord,
    IrqInfo,
    MemRegion,
    QueueInfo,
    RssConfig,
    RxFilter,
    RxQueueConfig,
    TxQueueConfig,
    TxShaping,
    VectorMap,
    VlanOffload,
)
from emuiavf.errors import ConfigError, MemoryFault, StateError
from tests.fakes.sink import RecordingSink

TX1 = TxQueueConfig(1, 512, 0x1000)
RX1 = RxQueueConfig(1, 512, 0x8000, 2048, 1522)
MAP3 = VectorMap(3, rx_queues=2, tx_queues=2, rx_itr=0, tx_itr=1)
RULE = FlowRule(0, frozenset({26}), (FlowWord(FlowBase.L4),), (80,), FlowAction.DROP)
FILTER = RxFilter(frozenset({bytes.fromhex("525400123456")}))
REGION = MemRegion(0, 4096, DmaProt.READ, True)


class Memory:
    regions = (REGION,)


class Stats:
    closed = False

    def close(self) -> None:
        self.closed = True


class Ops(ProviderOps):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def configure(self, conf: DeviceConf) -> None:
        self.calls.append("configure")

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")

    def set_attr(self, name: str, value: str) -> None:
        if value == "bad":
            raise ConfigError("bad value")
        self.calls.append(f"{name}={value}")


class Rig:
    def __init__(self) -> None:
        self.ops = Ops()
        info = DeviceInfo("emu_x0", "emu_x", 2, 4, 5, {"mac": "a", "link": "up"})
        self.stats = Stats()
        self.emu = EmuDevice(info, cast(Any, Memory()), cast(Any, self.stats), self.ops)
        self.sink = RecordingSink()

    def started(self) -> "Rig":
        self.emu.configure(DeviceConf())
        self.emu.start()
        self.emu.subscribe(self.sink)
        self.sink.calls.clear()
        return self

    def push_all(self) -> None:
        self.emu.set_bus_master(True)
        self.emu.set_irqs({3: 77})
        self.emu.set_rx_filter(FILTER)
        self.emu.set_rss(RssConfig(hena=1))
        self.emu.set_flows((RULE,))
        self.emu.set_vlan_offload(VlanOffload(strip=True))
        self.emu.set_tx_shaping(TxShaping({1: 500}))
        self.emu.map_vectors([MAP3])
        self.emu.configure_tx(TX1)
        self.emu.configure_rx(RX1)
        self.emu.enable_queues(rx=2, tx=2)


@pytest.fixture
def rig() -> Rig:
    return Rig()


REPLAY = [
    ("memory_changed",),
    ("set_bus_master", True),
    ("set_irqs", {3: 77}),
    ("set_rx_filter", FILTER),
    ("set_rss", RssConfig(hena=1)),
    ("set_flows", (RULE,)),
    ("set_vlan_offload", VlanOffload(strip=True)),
    ("set_tx_shaping", TxShaping({1: 500})),
    ("map_vectors", (MAP3,)),
    ("configure_tx", TX1),
    ("configure_rx", RX1),
    ("enable_queues", 2, 2),
]


CALLS = ["configure", "start", "stop", "close"]
ARGS = {"configure": [DeviceConf()]}
PROHIBITED = [key for key in product(DeviceState, CALLS) if key not in TRANSITIONS]


@pytest.mark.parametrize(("state", "call"), TRANSITIONS)
def test_lifecycle_call_leads_where_the_table_says(rig: Rig, state: DeviceState, call: str) -> None:
    rig.emu.state = state
    getattr(rig.emu, call)(*ARGS.get(call, []))
    assert (rig.emu.state, rig.ops.calls) == (TRANSITIONS[state, call], [call])


@pytest.mark.parametrize(("state", "call"), PROHIBITED)
def test_lifecycle_call_not_in_the_table_is_refused(
    rig: Rig, state: DeviceState, call: str
) -> None:
    rig.emu.state = state
    with pytest.raises(StateError, match=rf"emu_x0: {call}\(\) while {state.value}"):
        getattr(rig.emu, call)(*ARGS.get(call, []))
    assert (rig.emu.state, rig.ops.calls) == (state, [])


def test_configure_decides_queue_pairs_and_attributes(rig: Rig) -> None:
    rig.emu.configure(DeviceConf(4, {"mac": "b"}))
    info = rig.emu.info()
    assert (info.num_queue_pairs, info.attrs) == (4, {"mac": "b", "link": "up"})


@pytest.mark.parametrize("conf", [DeviceConf(5), DeviceConf(None, {"speed": "x"})])
def test_configure_refused_changes_nothing(rig: Rig, conf: DeviceConf) -> None:
    before = rig.emu.info()
    with pytest.raises(ConfigError):
        rig.emu.configure(conf)
    assert (rig.emu.info(), rig.emu.state, rig.ops.calls) == (before, DeviceState.ALLOCATED, [])


def test_pushed_facts_reach_a_subscriber_in_order(rig: Rig) -> None:
    rig.started().push_all()
    assert rig.sink.calls == [*REPLAY[1:8], ("map_vectors", [MAP3]), *REPLAY[9:]]


def test_subscribe_replays_what_is_true_now(rig: Rig) -> None:
    rig.started().push_all()
    late = RecordingSink()
    rig.emu.subscribe(late)
    assert late.calls == REPLAY


def test_start_replays_what_was_pushed_before(rig: Rig) -> None:
    rig.emu.configure(DeviceConf())
    rig.emu.subscribe(rig.sink)
    rig.push_all()
    held = list(rig.sink.calls)
    rig.emu.start()
    assert (held, rig.sink.calls) == ([], REPLAY)


def test_stop_resets_subscribers_and_keeps_the_record(rig: Rig) -> None:
    rig.started().push_all()
    rig.sink.calls.clear()
    rig.emu.stop()
    assert rig.sink.calls == [("reset",)]
    assert rig.emu.queue_info(1) == QueueInfo(TX1, RX1, True, True)


def test_start_that_a_subscriber_refuses_leaves_nothing_running(rig: Rig) -> None:
    rig.emu.configure(DeviceConf())
    rig.emu.subscribe(rig.sink)
    rig.push_all()
    rig.sink.refuse = "enable_queues"
    with pytest.raises(MemoryFault):
        rig.emu.start()
    assert rig.emu.state is DeviceState.CONFIGURED
    assert (rig.sink.calls[-1], rig.ops.calls) == (("reset",), ["configure", "start", "stop"])


def test_unsubscribe_turns_the_queues_off_and_ends_the_pushing(rig: Rig) -> None:
    rig.started()
    rig.emu.unsubscribe(rig.sink)
    rig.push_all()
    assert rig.sink.calls == [("reset",)]


def test_subscribe_twice_is_refused(rig: Rig) -> None:
    rig.started()
    with pytest.raises(StateError):
        rig.emu.subscribe(rig.sink)


def test_unsubscribe_of_a_stranger_is_refused(rig: Rig) -> None:
    with pytest.raises(StateError):
        rig.emu.unsubscribe(rig.sink)


@pytest.mark.parametrize(("call", "config"), [("configure_tx", TX1), ("configure_rx", RX1)])
def test_configuration_that_a_subscriber_refuses_is_not_recorded(
    rig: Rig, call: str, config: TxQueueConfig | RxQueueConfig
) -> None:
    rig.started()
    rig.sink.refuse = call
    with pytest.raises(MemoryFault):
        getattr(rig.emu, call)(config)
    assert rig.emu.queue_info(1) == QueueInfo()


def test_enable_that_one_subscriber_refuses_is_taken_back_from_the_others(rig: Rig) -> None:
    rig.started()
    second = RecordingSink()
    second.refuse = "enable_queues"
    rig.emu.subscribe(second)
    rig.emu.configure_rx(RX1)
    with pytest.raises(MemoryFault):
        rig.emu.enable_queues(rx=2, tx=0)
    assert rig.sink.calls[-1] == ("disable_queues", 2, 0)
    assert not rig.emu.queue_info(1).rx_enabled


def test_enable_of_a_queue_that_is_not_configured_is_refused(rig: Rig) -> None:
    rig.started().emu.configure_tx(TX1)
    with pytest.raises(StateError):
        rig.emu.enable_queues(rx=2, tx=2)
    assert "enable_queues" not in rig.sink.names()


def test_disable_clears_only_what_it_names(rig: Rig) -> None:
    rig.started().push_all()
    rig.emu.disable_queues(rx=2, tx=0)
    assert rig.emu.queue_info(1) == QueueInfo(TX1, RX1, tx_enabled=True, rx_enabled=False)


def test_reset_forgets_queues_but_keeps_eventfds_and_bus_master(rig: Rig) -> None:
    rig.started().push_all()
    rig.emu.reset()
    late = RecordingSink()
    rig.emu.subscribe(late)
    assert rig.emu.queue_info(1) == QueueInfo()
    assert late.calls == [
        ("memory_changed",),
        ("set_bus_master", True),
        ("set_irqs", {3: 77}),
        ("set_rx_filter", RxFilter()),
        ("set_rss", RssConfig()),
        ("set_flows", ()),
        ("set_vlan_offload", VlanOffload()),
        ("set_tx_shaping", TxShaping()),
    ]


def test_irq_info_shows_eventfd_and_map(rig: Rig) -> None:
    rig.started().push_all()
    assert rig.emu.irq_info(3) == IrqInfo(3, 77, MAP3)


def test_irq_info_after_the_eventfd_was_taken_away(rig: Rig) -> None:
    rig.started().push_all()
    rig.emu.set_irqs({3: None})
    assert rig.emu.irq_info(3).eventfd is None


@pytest.mark.parametrize(
    ("call", "args"),
    [
        ("queue_info", (4,)),
        ("queue_info", (-1,)),
        ("irq_info", (5,)),
        ("doorbell_info", (0,)),
        ("set_irqs", ({5: None},)),
        ("configure_tx", (TxQueueConfig(4, 32, 0),)),
        ("configure_rx", (RxQueueConfig(4, 32, 0, 1024, 1518),)),
        ("map_vectors", ([VectorMap(5, 0, 0, 0, 0)],)),
    ],
)
@pytest.mark.vfio_user("12.9.1")
def test_index_that_does_not_exist_is_refused(rig: Rig, call: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(StateError):
        getattr(rig.emu, call)(*args)


def test_doorbell_info_is_what_the_provider_gave(rig: Rig) -> None:
    bells = [DoorbellInfo("doorbells", 4 * i, 0x2000 + 4 * i, polled=True) for i in range(4)]
    rig.emu.provide_doorbells(bells)
    assert rig.emu.doorbell_info(2) == bells[2]


def test_map_region_shares_the_providers_memory(rig: Rig) -> None:
    memory = bytearray(16)
    rig.emu.provide_region("doorbells", memoryview(memory))
    rig.emu.map_region("doorbells", 8)[7] = 0xA5
    assert (memory[7], len(rig.emu.map_region("doorbells", 8))) == (0xA5, 8)


@pytest.mark.parametrize(("name", "size"), [("doorbells", 17), ("other", 1)])
@pytest.mark.vfio_user("12.17.1")
def test_map_region_refuses_what_is_not_there(rig: Rig, name: str, size: int) -> None:
    rig.emu.provide_region("doorbells", memoryview(bytearray(16)))
    with pytest.raises(StateError):
        rig.emu.map_region(name, size)


def test_mem_table_is_the_memorys_own(rig: Rig) -> None:
    assert rig.emu.mem_table() == (REGION,)


def test_close_closes_the_counters(rig: Rig) -> None:
    rig.emu.close()
    assert rig.stats.closed


def test_set_attr_asks_the_provider_first(rig: Rig) -> None:
    rig.emu.set_attr("link", "down")
    with pytest.raises(ConfigError):
        rig.emu.set_attr("link", "bad")
    assert (rig.emu.get_attr("link"), rig.ops.calls) == ("down", ["link=down"])


def test_record_attr_does_not_ask_the_provider(rig: Rig) -> None:
    rig.emu.record_attr("mac", "c")
    assert (rig.emu.get_attr("mac"), rig.ops.calls) == ("c", [])


def test_unknown_attribute_is_refused_by_name(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="emu_x0: no attribute 'speed'; there are mac, link"):
        rig.emu.get_attr("speed")


@pytest.mark.parametrize("call", ["reset", "memory_changed"])
def test_closed_device_refuses_what_is_pushed(rig: Rig, call: str) -> None:
    rig.emu.close()
    with pytest.raises(StateError, match="emu_x0: closed"):
        getattr(rig.emu, call)()
