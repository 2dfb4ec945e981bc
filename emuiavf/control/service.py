"""What the methods do: VFs found by name, policies checked as a whole, injections passed on."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from msgspec import UNSET

from emuiavf.control import methods
from emuiavf.control.methods import (
    MAX_RATE,
    FdbEntry,
    FdbPage,
    Method,
    SwitchState,
    VfState,
    is_called,
)
from emuiavf.datapath.switches import Station, SwitchView
from emuiavf.emudev.host import VfHost
from emuiavf.errors import ConfigError
from emuiavf.policy import TPID_8021AD, TPID_8021Q, LinkPolicy, VfPolicy
from emuiavf.virtchnl.ops import Op, Status

_TPIDS = {"802.1Q": TPID_8021Q, "802.1ad": TPID_8021AD}
_PROTOS = {tpid: name for name, tpid in _TPIDS.items()}

# Fields of VfPolicy by the word that sets them; the values of these go over as they are.
_FIELDS = {
    "vlan": "port_vlan",
    "qos": "port_qos",
    "spoofchk": "spoofchk",
    "trust": "trust",
    "min_rate": "min_rate",
    "max_rate": "max_rate",
    "mtu": "mtu",
}


# Addresses in one answer: the control thread serves guests as well.
MAX_PAGE = 1000


class Switching(Protocol):
    """What the engine tells of its switches; see there."""

    def switches(self) -> list[SwitchView]: ...

    def fdb(self, name: str, start: int, most: int) -> tuple[list[Station], int]: ...


class Service:
    """Carries methods out on the VFs that `vfs` names at that time, and on switches."""

    def __init__(self, vfs: Callable[[], Mapping[str, VfHost]], switching: Switching) -> None:
        self._vfs = vfs
        self._switching = switching

    def call(self, method: Method, params: Any) -> Any:
        """The method's result; ConfigError where it is refused, and then nothing has changed."""
        return getattr(self, handler(method))(params)

    def on_show(self, params: methods.Show) -> list[VfState]:
        if params.vf is UNSET:
            return [_state(vf) for vf in self._vfs().values()]
        return [_state(self._find(params.vf))]

    def on_switches(self, params: methods.Switches) -> list[SwitchState]:
        return [
            SwitchState(one.name, list(one.members), one.age, one.storm, one.learned, one.evicted)
            for one in self._switching.switches()
        ]

    def on_fdb(self, params: methods.Fdb) -> FdbPage:
        found, at = self._switching.fdb(params.switch, params.start, MAX_PAGE)
        return FdbPage([_entry(station, params.switch) for station in found], at)

    def on_set(self, params: methods.Set) -> VfState:
        vf = self._find(params.vf)
        policy = _changed(vf.view.policy, params)
        _check(policy)
        self._check_promises(vf, policy)
        if policy != vf.view.policy:
            vf.set_policy(policy)
        return _state(vf)

    def on_reset(self, params: methods.Reset) -> None:
        self._find(params.vf).reset()

    def on_inject_link_down(self, params: methods.LinkDown) -> None:
        self._find(params.vf).inject.link_down(params.seconds)

    def on_inject_pf_reset(self, params: methods.PfReset) -> None:
        self._find(params.vf).inject.pf_reset(params.seconds)

    def on_inject_vflr(self, params: methods.Vflr) -> None:
        self._find(params.vf).inject.vflr()

    def on_inject_adminq_drop(self, params: methods.AdminqDrop) -> None:
        self._find(params.vf).inject.adminq_drop(params.count, params.recover)

    def on_inject_adminq_error(self, params: methods.AdminqError) -> None:
        opcode = _number(params.op, Op, 0, 0xFFFF)
        status = _number(params.code, Status, -(1 << 31), (1 << 31) - 1)
        if status == Status.SUCCESS:
            raise ConfigError("a request is not refused with SUCCESS")
        self._find(params.vf).inject.adminq_error(opcode, status, params.count)

    def on_inject_irq_drop(self, params: methods.IrqDrop) -> None:
        self._find(params.vf).inject.irq_drop(params.count, params.recover)

    def on_inject_rx_corrupt(self, params: methods.RxCorrupt) -> None:
        self._find(params.vf).inject.rx_corrupt(params.count)

    def on_inject_tx_hang(self, params: methods.TxHang) -> None:
        self._find(params.vf).inject.tx_hang(params.seconds)

    def _find(self, name: str) -> VfHost:
        vfs = self._vfs()
        if name in vfs:
            return vfs[name]
        found = [vf for full, vf in vfs.items() if is_called(full, name)]
        if len(found) == 1:
            return found[0]
        problem = "more than one VF is called so" if found else "no such VF"
        raise ConfigError(f"{name[:64]}: {problem}; there are {', '.join(vfs) or 'none'}")

    def _check_promises(self, vf: VfHost, policy: VfPolicy) -> None:
        views = [other.view for other in self._vfs().values()]
        others = sum(view.policy.min_rate for view in views if view.name != vf.view.name)
        if policy.min_rate and others + policy.min_rate > MAX_RATE:
            raise ConfigError(
                f"min-rate {policy.min_rate}: with {others} of the other VFs more than the link's "
                f"{MAX_RATE} Mb/s"
            )


def handler(method: Method) -> str:
    """The name of what carries `method` out."""
    return "on_" + method.name.replace(".", "_").replace("-", "_")


def _changed(policy: VfPolicy, params: methods.Set) -> VfPolicy:
    changes: dict[str, Any] = {
        field: value
        for word, field in _FIELDS.items()
        if (value := getattr(params, word)) is not UNSET
    }
    if params.mac is not UNSET:
        mac = bytes.fromhex(params.mac.replace(":", ""))
        if mac[0] & 1:
            raise ConfigError(f"mac {params.mac}: not a unicast address")
        changes |= {"mac": mac, "mac_locked": any(mac)}
    if params.proto is not UNSET:
        changes["port_tpid"] = _TPIDS[params.proto]
    if params.link_state is not UNSET:
        changes["link_state"] = LinkPolicy(params.link_state)
    changed = replace(policy, **changes)
    if not changed.port_vlan and params.qos is UNSET and params.proto is UNSET:
        # As in `ip link`: without a VLAN there is nothing that they belong to.
        changed = replace(changed, port_qos=0, port_tpid=TPID_8021Q)
    return changed


def _check(policy: VfPolicy) -> None:
    if not policy.port_vlan and (policy.port_qos or policy.port_tpid != TPID_8021Q):
        raise ConfigError("qos and proto are of a port VLAN: set vlan as well")
    if policy.max_rate and policy.min_rate > policy.max_rate:
        raise ConfigError(f"min-rate {policy.min_rate}: more than max-rate {policy.max_rate}")


def _number(text: str, names: type[Op] | type[Status], low: int, high: int) -> int:
    """A name of `names`, in any case, or a number."""
    if text.upper() in names.__members__:
        return int(names[text.upper()])
    try:
        number = int(text, 0)
    except ValueError:
        known = ", ".join(name for name in names.__members__ if name != "UNKNOWN")
        raise ConfigError(f"{text[:64]}: neither a number nor one of {known}") from None
    if not low <= number <= high:
        raise ConfigError(f"{number}: {low} to {high}")
    return number


def _entry(station: Station, switch: str) -> FdbEntry:
    return FdbEntry(
        mac=station.mac.hex(":"),
        dev=station.port,
        vlan=station.vlan,
        master=switch,
        state="permanent" if station.permanent else "learned",
        used=station.age,
    )


def _state(vf: VfHost) -> VfState:
    view = vf.view
    policy = view.policy
    return VfState(
        name=view.name,
        driver=view.driver,
        mac=view.mac.hex(":"),
        mac_locked=policy.mac_locked,
        link="up" if view.link_up else "down",
        queue_pairs=view.queue_pairs,
        vlan=policy.port_vlan,
        qos=policy.port_qos,
        proto=_PROTOS[policy.port_tpid],
        spoofchk=policy.spoofchk,
        trust=policy.trust,
        link_state=policy.link_state.value,
        min_rate=policy.min_rate,
        max_rate=policy.max_rate,
        mtu=policy.mtu,
        injected=list(view.injected),
        answered=dict(view.answered),
        refused=dict(view.refused),
        rules=dict(view.rules),
    )
