"""What the methods do to VFs, and what is refused and then has changed nothing."""

from dataclasses import replace
from typing import Any

import pytest

from emuiavf.control import methods
from emuiavf.control.methods import MAX_RATE, METHODS, FdbEntry, Set, SwitchState, VfState
from emuiavf.control.service import MAX_PAGE, Service, handler
from emuiavf.datapath.switches import Station, SwitchView
from emuiavf.emudev.host import Injections, VfView
from emuiavf.errors import ConfigError
from emuiavf.policy import TPID_8021AD, LinkPolicy, VfPolicy

MAC = bytes.fromhex("020000000001")


class FakeInjections:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, *args))


class FakeVf:
    def __init__(self, name: str) -> None:
        self.view = VfView(name, MAC, "ready", True, 4, VfPolicy(mac=MAC), ("link-down",))
        self.injections = FakeInjections()
        self.inject: Injections = self.injections
        self.policies: list[VfPolicy] = []
        self.resets = 0

    def set_policy(self, policy: VfPolicy) -> None:
        self.policies.append(policy)
        self.view = replace(self.view, policy=policy)

    def reset(self) -> None:
        self.resets += 1


class FakeSwitching:
    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def switches(self) -> list[SwitchView]:
        return [SwitchView("sw0", ("a", "b"), 300, 10, 2, 1)]

    def fdb(self, name: str, start: int, most: int) -> tuple[list[Station], int]:
        self.asked.append((name, start, most))
        return [Station(MAC, 5, "a", 3), Station(MAC, 0, "b", 0, permanent=True)], 77


class Bench:
    def __init__(self) -> None:
        self.vfs = {name: FakeVf(name) for name in ("emu_iavf0", "emu_iavf1", "emu_other1")}
        self.vf = self.vfs["emu_iavf0"]
        self.switching = FakeSwitching()
        self.service = Service(lambda: self.vfs, self.switching)

    def call(self, name: str, params: Any) -> Any:
        return self.service.call(METHODS[name], params)

    def set(self, **words: Any) -> VfState:
        state: VfState = self.call("set", Set(vf="vf0", **words))
        return state


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_served(bench: Bench, name: str) -> None:
    assert callable(getattr(bench.service, handler(METHODS[name])))


def test_nothing_is_served_that_is_no_method(bench: Bench) -> None:
    served = {name for name in dir(bench.service) if name.startswith("on_")}
    assert served == {handler(method) for method in METHODS.values()}


@pytest.mark.parametrize("name", ["vf0", "emu_iavf0"])
def test_vf_is_found_by_name_and_by_number(bench: Bench, name: str) -> None:
    bench.call("reset", methods.Reset(name))
    assert bench.vf.resets == 1


@pytest.mark.parametrize(
    ("name", "message"), [("vf9", "no such VF"), ("vf1", "more than one"), ("", "no such VF")]
)
def test_unknown_and_ambiguous_names(bench: Bench, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.call("reset", methods.Reset(name))


def test_show_lists_all_or_one(bench: Bench) -> None:
    assert [state.name for state in bench.call("show", methods.Show())] == list(bench.vfs)
    (state,) = bench.call("show", methods.Show("vf0"))
    assert (state.mac, state.driver, state.link) == ("02:00:00:00:00:01", "ready", "up")
    assert state.injected == ["link-down"]


def test_switches_and_what_they_know(bench: Bench) -> None:
    (switch,) = bench.call("switches", methods.Switches())
    assert switch == SwitchState("sw0", ["a", "b"], 300, 10, 2, 1)
    page = bench.call("fdb", methods.Fdb("sw0", 12))
    assert bench.switching.asked == [("sw0", 12, MAX_PAGE)]
    mac = "02:00:00:00:00:01"
    assert page.entries == [
        FdbEntry(mac, "a", 5, "sw0", "learned", 3),
        FdbEntry(mac, "b", 0, "sw0", "permanent", 0),
    ]
    assert page.next == 77


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ({"mac": "02:00:00:00:00:09"}, {"mac": bytes.fromhex("020000000009"), "mac_locked": True}),
        ({"mac": "00:00:00:00:00:00"}, {"mac": bytes(6), "mac_locked": False}),
        ({"vlan": 5}, {"port_vlan": 5}),
        (
            {"vlan": 5, "qos": 3, "proto": "802.1ad"},
            {"port_vlan": 5, "port_qos": 3, "port_tpid": TPID_8021AD},
        ),
        ({"spoofchk": True}, {"spoofchk": True}),
        ({"trust": False}, {"trust": False}),
        ({"link_state": "disable"}, {"link_state": LinkPolicy.DISABLE}),
        ({"min_rate": 5, "max_rate": 10}, {"min_rate": 5, "max_rate": 10}),
        ({"mtu": 1500}, {"mtu": 1500}),
    ],
)
def test_words_become_the_policy(bench: Bench, words: dict[str, Any], fields: Any) -> None:
    bench.set(**words)
    assert bench.vf.policies == [replace(VfPolicy(mac=MAC), **fields)]


def test_set_answers_the_state_after_it(bench: Bench) -> None:
    state = bench.set(vlan=5, qos=3, trust=False)
    assert (state.vlan, state.qos, state.proto, state.trust) == (5, 3, "802.1Q", False)


def test_what_changes_nothing_disturbs_nobody(bench: Bench) -> None:
    bench.set(trust=True, link_state="auto", max_rate=0)
    assert bench.vf.policies == []


def test_no_vlan_takes_its_priority_along(bench: Bench) -> None:
    bench.set(vlan=5, qos=3, proto="802.1ad")
    bench.set(vlan=0)
    assert bench.vf.policies[-1] == VfPolicy(mac=MAC)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"mac": "03:00:00:00:00:01", "trust": False}, "not a unicast address"),
        ({"mac": "ff:ff:ff:ff:ff:ff"}, "not a unicast address"),
        ({"qos": 3}, "set vlan as well"),
        ({"proto": "802.1ad", "mtu": 1500}, "set vlan as well"),
        ({"vlan": 0, "qos": 1}, "set vlan as well"),
        ({"min_rate": 20, "max_rate": 10}, "more than max-rate"),
    ],
)
def test_refused_change_changes_nothing(bench: Bench, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.set(**words)
    assert bench.vf.policies == []


def test_promises_are_at_most_the_link(bench: Bench) -> None:
    bench.call("set", Set(vf="emu_iavf1", min_rate=MAX_RATE - 10))
    with pytest.raises(ConfigError, match="more than the link"):
        bench.set(min_rate=11)
    bench.set(min_rate=10)


@pytest.mark.parametrize(
    ("name", "params", "call"),
    [
        ("link-down", methods.LinkDown("vf0", 2.0), ("link_down", 2.0)),
        ("pf-reset", methods.PfReset("vf0"), ("pf_reset", 0.5)),
        ("vflr", methods.Vflr("vf0"), ("vflr",)),
        ("adminq-drop", methods.AdminqDrop("vf0", 2), ("adminq_drop", 2, 3.0)),
        ("irq-drop", methods.IrqDrop("vf0", 2, 0.0), ("irq_drop", 2, 0.0)),
        ("rx-corrupt", methods.RxCorrupt("vf0", 7), ("rx_corrupt", 7)),
        ("tx-hang", methods.TxHang("vf0"), ("tx_hang", 30.0)),
    ],
)
def test_injections_are_passed_on(bench: Bench, name: str, params: Any, call: Any) -> None:
    bench.call(f"inject.{name}", params)
    assert bench.vf.injections.calls == [call]


@pytest.mark.parametrize(
    ("op", "status", "call"),
    [
        ("ADD_ETH_ADDR", "ERR_PARAM", (10, -5, 1)),
        ("add_eth_addr", "-5", (10, -5, 1)),
        ("0x0a", "-64", (10, -64, 1)),
    ],
)
def test_opcode_and_status_by_name_or_number(bench: Bench, op: str, status: str, call: Any) -> None:
    bench.call("inject.adminq-error", methods.AdminqError("vf0", op, status))
    assert bench.vf.injections.calls == [("adminq_error", *call)]


@pytest.mark.parametrize(
    ("op", "status"),
    [
        ("NONSENSE", "-5"),
        ("3", "NONSENSE"),
        ("70000", "-5"),
        ("3", "0"),
        ("3", "SUCCESS"),
        ("", "1"),
    ],
)
def test_opcode_and_status_that_cannot_be(bench: Bench, op: str, status: str) -> None:
    with pytest.raises(ConfigError):
        bench.call("inject.adminq-error", methods.AdminqError("vf0", op, status))
    assert bench.vf.injections.calls == []
