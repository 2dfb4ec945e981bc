"""What a switch shows of itself: its members, and which of them it sends an address's frames to."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emuiavf.datapath._endpoint import Endpoint
from emuiavf.datapath._switch import FDB_PLACES, Learned, addresses_of

Members = Sequence[Endpoint | None]

# More addresses than a member can ask for.
_PER_MEMBER = 1 << 16


@dataclass(frozen=True)
class SwitchConf:
    """How a switch behaves.

    `age`: seconds after which an address behind a port that was not seen is forgotten.  `storm`:
    frames per second that each source may flood (groups, and addresses nobody has seen) to more
    than one member, 0 for no limit; so a loop between two ports costs no more than that.
    """

    age: int = 300
    storm: int = 100_000


@dataclass(frozen=True)
class Station:
    """An address behind a port of a switch; `vlan` 0 is none, `age` in seconds.

    `permanent`: the member asked for its frames, in all its VLANs, and nothing has to be learned.
    """

    mac: bytes
    vlan: int
    port: str
    age: int
    permanent: bool = False


@dataclass(frozen=True)
class SwitchView:
    """A switch as it is now.  `learned`: how many addresses it knows behind its ports; `evicted`:
    how many had to make room although they were not old."""

    name: str
    members: tuple[str, ...]
    age: int
    storm: int
    learned: int
    evicted: int


def view(name: str, conf: SwitchConf, members: Members, learned: Learned | None) -> SwitchView:
    names = tuple(member.name for member in members if member)
    known, evicted = (learned.count(now_s()), learned.evicted) if learned else (0, 0)
    return SwitchView(name, names, conf.age, conf.storm, known, evicted)


def now_s() -> int:
    """The clock of what is learned."""
    return time.monotonic_ns() // 1_000_000_000


def learned_of(
    members: Members, learned: Learned | None, start: int = 0, most: int = FDB_PLACES
) -> tuple[list[Station], int]:
    """At most `most` of the addresses that were learned, from place `start` of their table on, and
    the place to go on from, 0 at its end."""
    if learned is None:
        return [], 0
    entries, place = learned.page(now_s(), start, most)
    names = {number: member.name for number, member in enumerate(members) if member}
    return [
        Station(mac, vlan, names[number], age)
        for mac, vlan, number, age in entries
        if number in names
    ], place


def page(
    members: Members, learned: Learned | None, start: int, most: int
) -> tuple[list[Station], int]:
    """At most `most` stations from place `start` on, and the place to go on from, 0 at the end.

    Places are those of the table of what was learned, then of what each member asked for.
    """
    found: list[Station] = []
    if start < FDB_PLACES:
        found, place = learned_of(members, learned, start, most)
        if place:
            return found, place
    for place, station in _asked_for(members, start):
        if len(found) == most:
            return found, place
        found.append(station)
    return found, 0


def _asked_for(members: Members, start: int) -> Iterator[tuple[int, Station]]:
    """Places from `start` on and what stands there."""
    for number, member in enumerate(members):
        first = FDB_PLACES + number * _PER_MEMBER
        if member is None or first + _PER_MEMBER <= start:
            continue
        for place, mac in enumerate(addresses_of(member), first):
            if place >= start:
                yield place, Station(mac, 0, member.name, 0, permanent=True)
