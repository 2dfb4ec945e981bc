"""What it costs a switch to find where a frame goes: instructions per frame, counted by callgrind.

A VF sends to 1 to 63 others with two addresses each, a burst to each in turn and its frames to both
by turns, as a burst for one address is looked at once; then to 100 to 100,000 addresses that were
learned behind two ports, every frame to another one.  Counted is all that a turn spends outside of
take, put and done.  With --check the bench fails when the most members, or
the most addresses, cost a tenth more than the fewest.

Needs valgrind (Debian: apt-get install valgrind).
"""

import argparse
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from bench import report
from bench.bench_ring import SRC
from bench.callgrind import Costs, count_steps
from bench.frames import udp4
from bench.profile import STAGES, NoFigures, build
from bench.rig import BURST, PLAIN, Guest, expect, timed
from emuiavf.datapath._endpoint import Endpoint
from emuiavf.datapath.engine import Engine
from emuiavf.emudev import vdev
from emuiavf.emudev.info import RxFilter
from emuiavf.emudev.vdev import VdevArgs
from emuiavf.policy import VfPolicy
from emuiavf.ports import kinds

MEMBERS = (2, 3, 8, 16, 32, 64)
STATIONS = (100, 1_000, 10_000, 100_000)
ROUNDS = 3
WARM_UP = 1
RING = 512
RX_PACKETS = 6
TOLERANCE = 0.1
MEANING = {
    **{f"members_{n}": f"{n} VFs, each burst to the next one" for n in MEMBERS},
    **{f"stations_{n}": f"{n:,} addresses behind two ports" for n in STATIONS},
    "spoofchk": "3 VFs, the sender's source address is checked",
    "port_vlan": "3 VFs, the sender is behind a port VLAN",
}


def member_macs(number: int) -> list[bytes]:
    return [bytes([2, 0, 0, 0, which, number]) for which in (0x10, 0x11)]


def station_macs(count: int) -> list[bytes]:
    """Half of them in a row, as of one vendor, half of them random."""
    rng = random.Random(count)
    row = [b"\x02\x77\0" + i.to_bytes(3, "big") for i in range(count // 2)]
    return row + [b"\x06" + rng.randbytes(5) for _ in range(count - len(row))]


class Switched:
    """A VF that sends one ring of frames a round through a switch, to each of `targets` in turn."""

    def __init__(self, targets: list[bytes]) -> None:
        self.engine = Engine()
        self.sender = Guest("sender", SRC, RING, False, False, False)
        self.sender.load(udp4(64, SRC, targets[0]), PLAIN)
        for number, address in enumerate(self.sender.tx_buffers):
            target = np.frombuffer(targets[number % len(targets)], np.uint8)
            self.sender.memory[int(address) : int(address) + 6] = target
        self.engine.add_switch("sw0")
        self._rows: list[np.ndarray[tuple[int, ...], np.dtype[np.uint64]]] = []
        self._posted = 0
        self.frames = RING - 1
        self._add(self.sender.vf)

    def _add(self, endpoint: Endpoint) -> None:
        self.engine.add(endpoint)
        self.engine.join("sw0", endpoint)

    def add_sink(self, name: str, rx_filter: RxFilter | None) -> Endpoint:
        """A member that counts what it gets."""
        kind = kinds["null"]
        rows = np.zeros((len(kind.row_names), 16), np.uint64)
        sink = kind.create(name, vdev.resolve(VdevArgs("null", name, {}), kind.options), rows)
        sink.rx_filter = rx_filter
        self._rows.append(rows)
        self._add(sink)
        return sink

    def round(self) -> None:
        """RuntimeError when a frame did not arrive exactly once."""
        before = sum(int(rows[0, RX_PACKETS]) for rows in self._rows)
        self._posted += self.frames
        self.sender.rearm(0, self._posted)
        timed(self.engine, -(-self.frames // BURST), nullcontext)
        expect(sum(int(rows[0, RX_PACKETS]) for rows in self._rows) - before, self.frames)


def with_members(count: int) -> Switched:
    macs = [member_macs(number) for number in range(count - 1)]
    # A burst to each: what is counted is the search, not how many sinks are called.
    switched = Switched([mac for pair in macs for mac in pair * (BURST // 2)])
    for number, pair in enumerate(macs):
        switched.add_sink(f"vf{number}", RxFilter(frozenset(pair)))
    return switched


def with_stations(count: int) -> Switched:
    macs = station_macs(count)
    random.Random(1).shuffle(macs)
    switched = Switched(macs)
    ports = [switched.add_sink(f"port{number}", None) for number in range(2)]
    for number, port in enumerate(ports):
        switched.engine.learn("sw0", port, macs[number::2])
    return switched


def with_policy(policy: VfPolicy) -> Switched:
    switched = with_members(3)
    switched.engine.set_policy(switched.sender.vf, policy)
    return switched


def cases() -> Iterator[Switched]:
    yield from map(with_members, MEMBERS)
    yield from map(with_stations, STATIONS)
    yield with_policy(VfPolicy(spoofchk=True))
    yield with_policy(VfPolicy(port_vlan=5))


def child() -> None:
    for switched in cases():
        for _ in range(ROUNDS):
            switched.round()


def route_cost(steps: list[Costs]) -> float:
    """Instructions per frame outside of take, put and done."""
    spent = 0
    for step in steps:
        stages = [prefix for name in ("take", "put", "done") for prefix in STAGES[name]]
        spent += step.all - sum(step.spent_in(prefix) for prefix in stages)
    return spent / (len(steps) * (RING - 1))


def measure() -> report.Results:
    """NoFigures without valgrind, or for a build that was not optimized."""
    if shutil.which("valgrind") is None:
        raise NoFigures("valgrind is not installed (Debian: apt-get install valgrind)")
    build()
    steps = count_steps(Path(__file__).resolve(), "--child")
    if len(steps) != len(MEANING) * ROUNDS:
        raise RuntimeError(f"{len(steps)} steps of {len(MEANING)} cases were counted")
    return {
        name: route_cost(steps[number * ROUNDS + WARM_UP : (number + 1) * ROUNDS])
        for number, name in enumerate(MEANING)
    }


def slopes(found: report.Results) -> list[str]:
    """Where more of something costs more, in words."""
    told = []
    for kind, counts in (("members", MEMBERS), ("stations", STATIONS)):
        few, many = found[f"{kind}_{counts[0]}"], found[f"{kind}_{counts[-1]}"]
        if many > few * (1 + TOLERANCE):
            told.append(f"{counts[-1]} {kind}: {many:.1f} instructions per frame, {few:.1f} at few")
    return told


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="fail when a cost is not flat")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child()
        return
    try:
        found = measure()
    except NoFigures as reason:
        sys.exit(f"bench_switch: {reason}")
    report.show("switch", found, MEANING, args.json)
    if args.check and (told := slopes(found)):
        sys.exit("\n".join(told))


if __name__ == "__main__":
    main()
