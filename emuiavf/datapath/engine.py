"""The engine: workers, endpoints and what is connected to what.

Control changes what workers see by publish and grace: build new plans, publish them by pointer,
free the old ones when every worker that could use them has passed a turn or sleeps.  Workers never
wait for control, and a worker is asked for nothing that concerns endpoints of others only.
Everything here is called from the control thread.
"""

import os
import signal
import threading
from collections.abc import Iterable, Sequence

from emuiavf.datapath._endpoint import Endpoint, SourceRef
from emuiavf.datapath._switch import MAX_MEMBERS
from emuiavf.datapath._worker import SwitchTable, Worker
from emuiavf.errors import ConfigError, StateError

# A source and where its frames go: the sink of an endpoint, or a switch.
Route = tuple[SourceRef, Endpoint | SwitchTable]

IDLE_POLICIES = ("busy", "adaptive")


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
        # What is connected, and for each source of it that is served: its worker and its route.
        self._connections: dict[tuple[Endpoint, ...], list[tuple[int | None, Route]]] = {}
        self._shown: list[tuple[list[Route], list[Endpoint]]] = [([], []) for _ in self._workers]
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
        """Forget an endpoint and its connection; afterwards no worker touches it."""
        for connection in [c for c in self._connections if endpoint in c]:
            del self._connections[connection]
        self._endpoints.remove(endpoint)
        self.publish(endpoint)
        for worker in self._workers:
            worker.release(endpoint)
        self._places = {key: home for key, home in self._places.items() if key[0] is not endpoint}

    def connect(self, *endpoints: Endpoint) -> None:
        """One endpoint loops back to itself, two exchange frames, more make a switch."""
        if not endpoints:
            raise ConfigError("nothing to connect")
        if len(endpoints) > MAX_MEMBERS:
            raise ConfigError(
                f"{len(endpoints)} endpoints to connect: a switch has at most {MAX_MEMBERS}"
            )
        if len(set(endpoints)) < len(endpoints):
            raise ConfigError("an endpoint is there twice; alone it loops back")
        for endpoint in endpoints:
            if endpoint not in self._endpoints:
                raise StateError(f"{endpoint.name}: not part of the engine")
            if any(endpoint in connection for connection in self._connections):
                raise ConfigError(f"{endpoint.name}: connected already")
        self._connections[endpoints] = []
        self.publish(*endpoints)

    def disconnect(self, *endpoints: Endpoint) -> None:
        """Undo `connect` of exactly these endpoints."""
        if endpoints not in self._connections:
            raise StateError("not connected: " + ", ".join(e.name for e in endpoints))
        del self._connections[endpoints]
        self.publish(*endpoints)

    def publish(self, *changed: Endpoint) -> None:
        """Show the workers the sources, filters and connections of these endpoints as they are now.

        Returns after the grace of `changed`.  Workers that have nothing to do with them notice
        nothing; none named means all.
        """
        # Those that use what is there before; who begins to use something is shown a new plan.
        waited_for = self._users(changed)
        for connection in self._connections:
            if not changed or any(endpoint in changed for endpoint in connection):
                self._connections[connection] = self._lay_out(connection)
        for number, worker in enumerate(self._workers):
            routes = [
                route
                for placed in self._connections.values()
                for home, route in placed
                if home == number
            ]
            pollers = [e for e in self._endpoints if self._home(e, 0) == number]
            if (routes, pollers) != self._shown[number]:
                self._shown[number] = (routes, pollers)
                worker.publish(routes, pollers)
                waited_for.add(number)
        self._wait(waited_for)
        for number in waited_for:
            self._workers[number].reclaim()

    def refilter(self, endpoint: Endpoint) -> None:
        """The receive filter of `endpoint` has changed: the switch that it is part of follows."""
        if any(endpoint in connection and len(connection) > 2 for connection in self._connections):
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

    def _lay_out(self, connection: tuple[Endpoint, ...]) -> list[tuple[int | None, Route]]:
        switch = SwitchTable(list(connection)) if len(connection) > 2 else None
        placed: list[tuple[int | None, Route]] = []
        for number, endpoint in enumerate(connection):
            # 1:1 goes to the other one, which for a loop-back is the endpoint itself.
            to = switch or connection[(number + 1) % len(connection)]
            for ref in endpoint.active_sources():
                ref.set_member(number)
                placed.append((self._home(endpoint, ref.index), (ref, to)))
        return placed

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
        for connection, placed in self._connections.items():
            if any(endpoint in connection for endpoint in endpoints):
                users.update(home for home, _ in placed)
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

    def step(self, turns: int = 1) -> int:
        """Make turns of every worker in the caller's thread, while the engine is not started."""
        return sum(worker.step(turns) for worker in self._workers)

    def turns(self) -> list[int]:
        """How many turns each worker has made."""
        return [worker.turns for worker in self._workers]

    def graces(self) -> list[int]:
        """How often each worker has been asked to acknowledge a change."""
        return [worker.graces for worker in self._workers]
