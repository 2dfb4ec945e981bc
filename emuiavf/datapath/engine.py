"""The engine: workers, endpoints and what is connected to what.

Control changes what workers see by publish and grace: build new plans, publish them by pointer,
free the old ones when every worker that could use them has passed a turn or sleeps.  Workers never
wait for control, and a worker is asked for nothing that concerns endpoints of others only.
Everything here is called from the control thread.
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from emuiavf.datapath._endpoint import Endpoint, SourceRef
from emuiavf.datapath._plan import SwitchTable
from emuiavf.datapath._switch import (
    MAX_MEMBERS,
    GuardTable,
    Learned,
    guard_of,
    is_promised,
    is_way_out,
)
from emuiavf.datapath._worker import Worker
from emuiavf.datapath.switches import (
    Station,
    SwitchConf,
    SwitchView,
    learned_of,
    now_s,
    page,
    view,
)
from emuiavf.errors import ConfigError, StateError
from emuiavf.policy import VfPolicy

# A source and where its frames go: the sink of an endpoint, or a switch; what guards it; whether it
# is promised a share.
Route = tuple[SourceRef, Endpoint | SwitchTable | None, GuardTable | None, bool]

IDLE_POLICIES = ("busy", "adaptive")
MAX_VLAN = 4094


@dataclass(eq=False)
class _Connection:
    """What is connected, and for each source of it that is served: its worker and its route.

    A member keeps its number, by which sources and learned addresses know it; the place of one that
    left is None.
    """

    members: list[Endpoint | None]
    switch: SwitchConf | None = None
    learned: Learned | None = None
    placed: list[tuple[int | None, Route]] = field(default_factory=list)

    def __contains__(self, endpoint: Endpoint) -> bool:
        return any(member is endpoint for member in self.members)

    def __iter__(self) -> Iterator[Endpoint]:
        return (member for member in self.members if member is not None)


def _looks(routes: Iterable[Route], pollers: Iterable[Endpoint]) -> Counter[Endpoint]:
    """How many things there are to look at, even while idle, by endpoint."""
    owners = [route[0].owner for route in routes]
    looked_at = [*owners, *pollers]
    return Counter(e for e in looked_at if isinstance(e, Endpoint) and e.polled)


class Engine:
    """N workers that carry frames between connected endpoints.

    `cpus`: worker i is pinned to `cpus[i % len]`, when given.  `idle`: "busy" polls without end,
    "adaptive" spins a little, then sleeps for a growing time.  `hold_s`: how long a 1:1 connection
    waits for room at its destination before it drops.
    """

    def __init__(
        self,
        workers: int = 1,
        cpus: Sequence[int] = (),
        idle: str = "adaptive",
        hold_s: float = 0.001,
    ) -> None:
        if not 1 <= workers <= 64:
            raise ConfigError(f"workers={workers}: 1 to 64")
        if not set(cpus) <= os.sched_getaffinity(0):
            missing = ", ".join(map(str, sorted(set(cpus) - os.sched_getaffinity(0))))
            raise ConfigError(f"cpus: {missing} not available to this process")
        if idle not in IDLE_POLICIES:
            raise ConfigError(f"idle={idle}: one of {', '.join(IDLE_POLICIES)}")
        self._cpus = tuple(cpus)
        self._workers = [Worker(idle == "adaptive", int(hold_s * 1e9)) for _ in range(workers)]
        self._threads: list[threading.Thread] = []
        self._endpoints: list[Endpoint] = []
        self._connections: list[_Connection] = []
        self._switches: dict[str, _Connection] = {}
        self._shown: list[tuple[list[Route], list[Endpoint], float]] = [
            ([], [], 0.0) for _ in self._workers
        ]
        self._joined = 0
        # Sources that were given to a worker; all others are spread.
        self._places: dict[tuple[Endpoint, int], int | None] = {}
        self._closed = False

    def add(self, endpoint: Endpoint) -> None:
        """Take up an endpoint; it moves no frame before it is connected."""
        if endpoint in self._endpoints:
            raise StateError(f"{endpoint.name}: already part of the engine")
        endpoint.number = self._joined
        self._joined += 1
        self._endpoints.append(endpoint)
        self.publish(endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        """Forget an endpoint and its connection; afterwards no worker touches it.

        A switch that has a name only loses this member.
        """
        for connection in [c for c in self._connections if endpoint in c]:
            if connection in self._switches.values():
                self._leave(connection, endpoint)
            else:
                self._connections.remove(connection)
        self._endpoints.remove(endpoint)
        self.publish(endpoint)
        for worker in self._workers:
            worker.release(endpoint)
        self._places = {key: home for key, home in self._places.items() if key[0] is not endpoint}

    def connect(self, *endpoints: Endpoint) -> None:
        """One endpoint loops back to itself, two exchange frames, more make a switch."""
        if not endpoints:
            raise ConfigError("nothing to connect")
        self._check_free(endpoints)
        switch = SwitchConf() if len(endpoints) > 2 else None
        self._check_members(len(endpoints))
        self._connections.append(_Connection(list(endpoints), switch))
        self.publish(*endpoints)

    def disconnect(self, *endpoints: Endpoint) -> None:
        """Undo `connect` of exactly these endpoints."""
        for connection in self._connections:
            named = connection in self._switches.values()
            if not named and tuple(connection) == endpoints:
                break
        else:
            raise StateError("not connected: " + ", ".join(e.name for e in endpoints))
        self._connections.remove(connection)
        self.publish(*endpoints)

    def add_switch(self, name: str, conf: SwitchConf | None = None) -> None:
        """Make a switch without members, which `join` and `leave` it one by one."""
        if name in self._switches:
            raise ConfigError(f"{name}: there is a switch of that name already")
        connection = _Connection([], conf or SwitchConf())
        self._switches[name] = connection
        self._connections.append(connection)

    def join(self, name: str, *endpoints: Endpoint) -> None:
        """Make endpoints members of the switch `name`; they see its other members at once."""
        connection = self._switch(name)
        self._check_free(endpoints)
        self._check_members(len([*connection, *endpoints]))
        for endpoint in endpoints:
            if None in connection.members:
                connection.members[connection.members.index(None)] = endpoint
            else:
                connection.members.append(endpoint)
        self.publish(*connection)

    def leave(self, name: str, endpoint: Endpoint) -> None:
        """End the membership of an endpoint; what was learned behind it is forgotten."""
        connection = self._switch(name)
        if endpoint not in connection:
            raise ConfigError(f"{endpoint.name}: no member of {name}")
        self._leave(connection, endpoint)

    def stations(self, name: str) -> list[Station]:
        """The addresses that the switch `name` has learned behind its ports.

        None where it has less than two ports: there is nothing to choose from then.
        """
        connection = self._switch(name)
        return learned_of(connection.members, connection.learned)[0]

    def switches(self) -> list[SwitchView]:
        """All switches; one that has no name is called by those of its members, with commas."""
        return [
            view(name, one.switch, one.members, one.learned)
            for name, one in self._all_switches().items()
            if one.switch is not None
        ]

    def fdb(self, name: str, start: int, most: int) -> tuple[list[Station], int]:
        """What one of `switches` sends where: `most` addresses at most, from place `start` on, and
        the place to go on from, 0 at the end."""
        known = self._all_switches()
        if name not in known:
            raise ConfigError(f"no switch {name[:64]!r}; there are {', '.join(known) or 'none'}")
        return page(known[name].members, known[name].learned, start, most)

    def learn(self, name: str, port: Endpoint, macs: Iterable[bytes], vlan: int = 0) -> None:
        """Know addresses behind a port of the switch `name` as if they had sent from there now."""
        connection = self._switch(name)
        if port not in connection:
            raise StateError(f"{port.name}: no member of {name}")
        if connection.learned is None:
            return
        for mac in macs:
            connection.learned.learn(mac, vlan, connection.members.index(port), now_s())

    def _all_switches(self) -> dict[str, _Connection]:
        named = {id(connection): name for name, connection in self._switches.items()}
        return {
            named.get(id(one)) or ",".join(member.name for member in one): one
            for one in self._connections
            if one.switch is not None
        }

    def _switch(self, name: str) -> _Connection:
        if name not in self._switches:
            there = ", ".join(sorted(self._switches)) or "none"
            raise ConfigError(f"no switch {name!r}; there are {there}")
        return self._switches[name]

    def _check_free(self, endpoints: Sequence[Endpoint]) -> None:
        if len(set(endpoints)) < len(endpoints):
            raise ConfigError("an endpoint is there twice; alone it loops back")
        for endpoint in endpoints:
            if endpoint not in self._endpoints:
                raise StateError(f"{endpoint.name}: not part of the engine")
            if any(endpoint in connection for connection in self._connections):
                raise ConfigError(f"{endpoint.name}: connected already")

    def _check_members(self, count: int) -> None:
        if count > MAX_MEMBERS:
            raise ConfigError(f"{count} endpoints: a switch has at most {MAX_MEMBERS}")

    def _leave(self, connection: _Connection, endpoint: Endpoint) -> None:
        number = connection.members.index(endpoint)
        users = self._users([endpoint])
        connection.members[number] = None
        self._show(users, [connection])
        # Nobody learns of it any more: its number is free.
        if connection.learned is not None:
            connection.learned.forget(number)

    def publish(self, *changed: Endpoint) -> None:
        """Show the workers the sources, filters and connections of these endpoints as they are now.

        Returns after the grace of `changed`.  Workers that have nothing to do with them notice
        nothing; none named means all.
        """
        # Those that use what is there before; who begins to use something is shown a new plan.
        self._show(
            self._users(changed),
            [c for c in self._connections if not changed or any(e in changed for e in c)],
        )

    def _show(self, waited_for: set[int], connections: Iterable[_Connection]) -> None:
        """Lay these connections out anew; returns after the grace of all whom that concerns."""
        for connection in connections:
            connection.placed = self._lay_out(connection)
        placed = [route for c in self._connections for _, route in c.placed]
        looked_at = _looks(placed, self._endpoints)
        for number, worker in enumerate(self._workers):
            routes = [
                route
                for connection in self._connections
                for home, route in connection.placed
                if home == number
            ]
            pollers = [e for e in self._endpoints if self._home(e, 0) == number]
            # A device that several workers look at is a part of one to each of them.
            looks = _looks(routes, pollers)
            devices = sum(count / looked_at[endpoint] for endpoint, count in looks.items())
            if (routes, pollers, devices) != self._shown[number]:
                self._shown[number] = (routes, pollers, devices)
                worker.publish(routes, pollers, devices)
                waited_for.add(number)
        self._wait(waited_for)
        for number in waited_for:
            self._workers[number].reclaim()

    def refilter(self, endpoint: Endpoint) -> None:
        """The receive filter of `endpoint` has changed: the switch that it is part of follows, and
        what it may send when it is checked for spoofing."""
        checked = endpoint.policy is not None and endpoint.policy.spoofchk
        if checked or any(endpoint in c and c.switch is not None for c in self._connections):
            self.publish(endpoint)

    def set_policy(self, endpoint: Endpoint, policy: VfPolicy) -> None:
        """What frames show of the host's decisions about a VF, from the return of this call on.

        `port_vlan`: what it sends gets this tag, and of what is sent to it only that VLAN arrives,
        without the tag; tagged frames of its own are spoofed ones.  `spoofchk`: frames from an
        address that it does not receive, or of a VLAN that it has not asked for when it has asked
        for any, are dropped and counted as spoofed.  No `trust`: nothing promiscuous takes effect.
        `mac_locked`: of its unicast addresses `mac` alone does.  `min_rate`: what it sends comes
        first, up to that rate.  ConfigError for a port.
        """
        if endpoint not in self._endpoints:
            raise StateError(f"{endpoint.name}: not part of the engine")
        if not 0 <= policy.port_vlan <= MAX_VLAN:
            raise ConfigError(f"{endpoint.name}: VLAN {policy.port_vlan}: 0 to {MAX_VLAN}")
        endpoint.set_policy(policy)
        self.publish(endpoint)

    def grace(self, *endpoints: Endpoint) -> None:
        """Return when no worker can still use what was taken from these endpoints before the call.

        None named means all.
        """
        self._wait(self._users(endpoints))

    def wake(self, *endpoints: Endpoint) -> None:
        """There may be work at these endpoints that no fd and no memory poll shows (a doorbell).

        None named means all.
        """
        for number in self._users(endpoints):
            self._workers[number].wake()

    def _lay_out(self, connection: _Connection) -> list[tuple[int | None, Route]]:
        members = connection.members
        switch = self._build(connection) if connection.switch is not None else None
        placed: list[tuple[int | None, Route]] = []
        for number, endpoint in enumerate(members):
            if endpoint is None:
                continue
            # 1:1 goes to the other one, which for a loop-back is the endpoint itself.
            to = switch or members[(number + 1) % len(members)]
            guard, promised = guard_of(endpoint), is_promised(endpoint)
            for ref in endpoint.active_sources():
                ref.set_member(number)
                placed.append((self._home(endpoint, ref.index), (ref, to, guard, promised)))
        return placed

    def _build(self, connection: _Connection) -> SwitchTable:
        """The table of a switch; it learns from the moment on that there are two ways out."""
        assert connection.switch is not None
        if connection.learned is None and sum(is_way_out(member) for member in connection) > 1:
            connection.learned = Learned(connection.switch.age)
        return SwitchTable(connection.members, connection.learned, connection.switch.storm)

    def place(self, endpoint: Endpoint, index: int, worker: int) -> None:
        """Have worker number `worker` serve source `index` of an endpoint from now on.

        No frame is lost or overtaken.  The one that serves source 0 also calls its poller.
        """
        if endpoint not in self._endpoints:
            raise StateError(f"{endpoint.name}: not part of the engine")
        if not 0 <= worker < len(self._workers):
            raise ConfigError(f"worker {worker}: there are {len(self._workers)}")
        if self._home(endpoint, index) == worker:
            return
        # In between nobody serves it: what two workers see must never have the same owner twice.
        for home in (None, worker):
            self._places[endpoint, index] = home
            self.publish(endpoint)

    def _home(self, endpoint: Endpoint, index: int) -> int | None:
        """The worker of an endpoint's source `index`; None while it changes hands."""
        spread = (endpoint.number + index) % len(self._workers)
        return self._places.get((endpoint, index), spread)

    def _users(self, endpoints: Sequence[Endpoint]) -> set[int]:
        """The workers that can be using anything of these endpoints; none named: all workers.

        Those that call their pollers, and those that serve a source of a connection they are in.
        """
        if not endpoints:
            return set(range(len(self._workers)))
        users = {self._home(endpoint, 0) for endpoint in endpoints}
        for connection in self._connections:
            if any(endpoint in connection for endpoint in endpoints):
                users.update(home for home, _ in connection.placed)
        return {home for home in users if home is not None}

    def _wait(self, numbers: Iterable[int]) -> None:
        workers = [self._workers[number] for number in numbers]
        wanted = [worker.begin_grace() for worker in workers]
        for worker, number in zip(workers, wanted, strict=True):
            worker.end_grace(number)

    def start(self) -> None:
        """Start the worker threads."""
        if self._threads or self._closed:
            raise StateError("the engine was started before")
        for number, worker in enumerate(self._workers):
            thread = threading.Thread(
                target=self._main, args=(number, worker), name=f"worker-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _main(self, number: int, worker: Worker) -> None:
        # Signals belong to the control thread; a fault of guest memory to whoever touched it.
        signal.pthread_sigmask(
            signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGBUS, signal.SIGSEGV}
        )
        if self._cpus:
            os.sched_setaffinity(0, {self._cpus[number % len(self._cpus)]})
        worker.run()

    def stop(self) -> None:
        """End the worker threads; the engine cannot be started again."""
        if self._closed:
            return
        self._closed = True
        for worker in self._workers:
            worker.stop()
        for thread in self._threads:
            thread.join()

    def step(self, turns: int = 1, at_ns: int = 0) -> int:
        """Make turns of every worker in the caller's thread, while the engine is not started.

        `at_ns`: the time that it is for them, instead of the clock's.
        """
        return sum(worker.step(turns, at_ns) for worker in self._workers)

    def turns(self) -> list[int]:
        """How many turns each worker has made."""
        return [worker.turns for worker in self._workers]

    def graces(self) -> list[int]:
        """How often each worker has been asked to acknowledge a change."""
        return [worker.graces for worker in self._workers]
