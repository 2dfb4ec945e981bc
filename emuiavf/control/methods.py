"""The one table of what can be asked over the control socket.

Server, command line, completion and documentation are all made from it.  The words are those of
`ip link set ... vf`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from emuiavf.policy import MAX_MTU

MAX_RATE = 100_000
"""Mb/s: the speed that VFs are told."""

_HEX = "[0-9A-Fa-f]{2}"

Name = Annotated[str, Meta(title="NAME")]
Mac = Annotated[str, Meta(pattern=f"^{_HEX}(:{_HEX}){{5}}$", title="ADDR")]
Vf = Annotated[
    str, Meta(title="VF", description="a device's name, or vfN for the one whose name ends in N")
]
Vlan = Annotated[int, Meta(ge=0, le=4094, title="ID")]
Qos = Annotated[int, Meta(ge=0, le=7, title="PRIORITY")]
Proto = Literal["802.1Q", "802.1ad"]
LinkState = Literal["auto", "enable", "disable"]
Rate = Annotated[int, Meta(ge=0, le=MAX_RATE, title="MBPS")]
Mtu = Annotated[int, Meta(ge=68, le=MAX_MTU, title="BYTES")]
Count = Annotated[int, Meta(ge=1, le=1_000_000, title="N")]
Seconds = Annotated[float, Meta(gt=0, le=3600, title="SECONDS")]
Recover = Annotated[float, Meta(ge=0, le=3600, title="SECONDS")]


def _about(text: str) -> Meta:
    return Meta(description=text)


class Words(Struct, forbid_unknown_fields=True, rename="kebab"):
    """Parameters: by name or, in their order, by place."""


class Show(Words):
    vf: Annotated[Vf | UnsetType, _about("one VF; all of them without it")] = UNSET


class Switches(Words):
    pass


class Fdb(Words):
    switch: Annotated[Name, _about("a name that `switches` tells")]
    start: Annotated[int, Meta(ge=0), _about("where to go on: `next` of the answer before")] = 0


class Set(Words, kw_only=True):
    vf: Vf
    mac: Annotated[
        Mac | UnsetType,
        _about("the VF's address, which its guest cannot change then; all zeros: it can again"),
    ] = UNSET
    vlan: Annotated[
        Vlan | UnsetType,
        _about("port VLAN: put on all that the VF sends, and it receives no other; 0: none"),
    ] = UNSET
    qos: Annotated[Qos | UnsetType, _about("priority in the tag of the port VLAN")] = UNSET
    proto: Annotated[Proto | UnsetType, _about("TPID of the tag of the port VLAN")] = UNSET
    spoofchk: Annotated[
        bool | UnsetType,
        _about("drop what the VF sends from an address or VLAN that is not its own"),
    ] = UNSET
    trust: Annotated[
        bool | UnsetType,
        _about("allow promiscuous mode, and 256 addresses and 4096 VLANs instead of 18 and 8"),
    ] = UNSET
    link_state: Annotated[
        LinkState | UnsetType, _about("the link that the VF sees: its port's, up, down")
    ] = UNSET
    min_rate: Annotated[
        Rate | UnsetType,
        _about("Mb/s that the VF gets before others get more; 0: its turn like all"),
    ] = UNSET
    max_rate: Annotated[
        Rate | UnsetType,
        _about("Mb/s that the VF may send; more waits in its Tx rings; 0: no limit"),
    ] = UNSET
    mtu: Annotated[Mtu | UnsetType, _about("the largest MTU that the guest may set")] = UNSET


class Reset(Words):
    vf: Vf


class LinkDown(Words):
    vf: Vf
    seconds: Annotated[Seconds, _about("how long")] = 1.0


class PfReset(Words):
    vf: Vf
    seconds: Annotated[Seconds, _about("how long VFGEN_RSTAT reads as in progress")] = 0.5


class Vflr(Words):
    vf: Vf


class AdminqDrop(Words):
    vf: Vf
    count: Annotated[Count, _about("requests")]
    recover: Annotated[
        Recover, _about("reset a VF that has said nothing for so long; 0: never")
    ] = 3.0


class AdminqError(Words):
    vf: Vf
    op: Annotated[Name, _about("virtchnl opcode, by name or number")]
    code: Annotated[Name, _about("virtchnl status, by name or number")]
    count: Annotated[Count, _about("requests")] = 1


class IrqDrop(Words):
    vf: Vf
    count: Annotated[Count, _about("interrupts")]
    recover: Annotated[Recover, _about("repeat each after so long; 0: never")] = 1.0


class RxCorrupt(Words):
    vf: Vf
    count: Annotated[Count, _about("frames")]


class TxHang(Words):
    vf: Vf
    seconds: Annotated[Seconds, _about("at most; a VF reset ends it too")] = 30.0


class VfState(Struct, frozen=True, rename="kebab"):
    """A VF as `show` and `set` answer it; see `set` for most of it."""

    name: str
    driver: Annotated[str, _about("the guest's: none, not ready, ready, in reset")]
    mac: Annotated[str, _about("the VF's own address")]
    mac_locked: Annotated[bool, _about("the host has set it")]
    link: Annotated[Literal["up", "down"], _about("as the VF sees it")]
    queue_pairs: int
    vlan: int
    qos: int
    proto: str
    spoofchk: bool
    trust: bool
    link_state: str
    min_rate: int
    max_rate: int
    mtu: int
    injected: Annotated[list[str], _about("faults that are under way or still to come")]
    answered: Annotated[
        dict[str, int], _about("what the drivers have asked since the process began, by opcode")
    ]
    refused: Annotated[dict[str, int], _about("the same, of requests that were refused")]
    rules: Annotated[
        dict[int, int], _about("frames that each flow director rule has matched, by its id")
    ]


class SwitchState(Struct, frozen=True):
    """A switch as `switches` answers it."""

    name: Annotated[str, _about("its members with commas where it has none of its own")]
    members: list[str]
    age: Annotated[int, _about("seconds after which a silent address is forgotten")]
    storm: Annotated[int, _about("frames a second that each source may flood, 0: no limit")]
    learned: Annotated[int, _about("addresses that it has learned behind its ports")]
    evicted: Annotated[int, _about("addresses that made room for others before they were old")]


class FdbEntry(Struct, frozen=True):
    """An address as `fdb` answers it, in the words of `bridge fdb show`."""

    mac: str
    dev: Annotated[str, _about("the member that frames for it go to")]
    vlan: Annotated[int, _about("0: none, and if permanent all that the member is in")]
    master: Annotated[str, _about("the switch")]
    state: Annotated[
        Literal["learned", "permanent"],
        _about("seen behind a port, or asked for by a VF (groups as well)"),
    ]
    used: Annotated[int, _about("seconds since a frame came from it; 0 if permanent")]


class FdbPage(Struct, frozen=True):
    """A part of what a switch knows; `next` 0 is its end."""

    entries: list[FdbEntry]
    next: int


@dataclass(frozen=True)
class Method:
    """One row.  `summary` is a line for `--help`, `effect` a paragraph for the documentation."""

    name: str
    params: type[Words]
    result: Any
    summary: str
    effect: str = ""


_ROWS = (
    Method("show", Show, list[VfState], "show VFs as the host sees them"),
    Method("switches", Switches, list[SwitchState], "show switches and who is their member"),
    Method(
        "fdb",
        Fdb,
        FdbPage,
        "show which addresses a switch sends to which member",
        "An object with `entries`, 1000 at most, and `next`: `start` of the request that goes on, "
        "0 at the end. What comes or goes meanwhile may be missing.",
    ),
    Method(
        "set",
        Set,
        VfState,
        "change what the host decides about a VF",
        "All or nothing: what is refused changes nothing. A change of `mac`, `vlan`, `qos`, "
        "`proto`, `trust` or `mtu` resets the VF with a notice (RESET_IMPENDING), as in ice: "
        "drivers take the new value with their next GET_VF_RESOURCES. The others act at once.",
    ),
    Method(
        "reset",
        Reset,
        None,
        "reset a VF as its PF does, with a notice before it",
    ),
    Method(
        "inject.link-down",
        LinkDown,
        None,
        "take the link away for a while",
        "The event LINK_CHANGE tells the VF, now and at the end.",
    ),
    Method(
        "inject.pf-reset",
        PfReset,
        None,
        "a PF reset: notice, then a VF that is gone for a while",
        "RESET_IMPENDING, then the admin queues are off and VFGEN_RSTAT reads 0 for that long.",
    ),
    Method(
        "inject.vflr",
        Vflr,
        None,
        "a function-level reset that the guest did not ask for",
        "No notice. Configuration space is as before, as after `echo 1 > reset` in the host's "
        "sysfs. Linux iavf finds out within 2 s.",
    ),
    Method(
        "inject.adminq-drop",
        AdminqDrop,
        None,
        "lose requests of the VF",
        "Each is taken from the admin queue and never answered; RESET_VF is not lost. Linux iavf "
        "waits for an answer for ever and asks nothing else meanwhile: when the VF has been "
        "silent for `recover` seconds, what remains is forgotten and the host resets it.",
    ),
    Method(
        "inject.adminq-error",
        AdminqError,
        None,
        "refuse requests of the VF",
        "The next requests of that opcode are not carried out and answered with that status.",
    ),
    Method(
        "inject.irq-drop",
        IrqDrop,
        None,
        "lose interrupts",
        "The vector is disarmed as if it had fired, and no message arrives. Without the "
        "repetition a driver is left to its own recovery.",
    ),
    Method(
        "inject.rx-corrupt",
        RxCorrupt,
        None,
        "turn a bit in received frames",
        "In the last of the frame's first 128 bytes, before the device judges it: checksums are "
        "reported as bad, truthfully. Frames that are to be segmented are passed over.",
    ),
    Method(
        "inject.tx-hang",
        TxHang,
        None,
        "have the Tx queues stand still",
        "Until the VF is reset (Linux does that when its Tx watchdog fires, after 5 s) or the "
        "time is up; then what waits is sent.",
    ),
)

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}


def is_called(full: str, name: str) -> bool:
    """Whether `name` may stand for the device `full`: vf0 for emu_iavf0, too."""
    return name in (full, "vf" + full[len(full.rstrip("0123456789")) :])
