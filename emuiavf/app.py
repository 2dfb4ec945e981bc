"""The backend: the only place that decides which device, port and socket go together.

    with Backend(workers=2) as backend:
        backend.add_device("emu_iavf0,path=vf0.sock,mac=52:54:00:12:34:56")
        backend.add_port("tap0,type=tap,ifname=vf0")
        backend.connect("emu_iavf0", "tap0")
        backend.start()
        ...

Everything of a device happens in the control thread, which `start` makes and `run` lends; calls
from other threads are carried out there.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self, TypeVar

# Imported for what they register: the device model emu_iavf, the kinds of ports.
import emuiavf.iavf
import emuiavf.ports  # noqa: F401
from emuiavf.control.rpc import respond
from emuiavf.control.server import ControlServer
from emuiavf.control.service import Service
from emuiavf.datapath.engine import Engine
from emuiavf.datapath.switches import Station, SwitchConf, SwitchView
from emuiavf.emudev import registry, vdev
from emuiavf.emudev.device import EmuDevice
from emuiavf.emudev.host import VfHost
from emuiavf.emudev.info import DeviceConf
from emuiavf.emudev.vdev import Option, VdevArgs
from emuiavf.errors import ConfigError, StateError
from emuiavf.loop import Loop
from emuiavf.ports import registry as port_kinds
from emuiavf.stats import Segment, Table
from emuiavf.vfio_user.server import Server

_log = logging.getLogger(__name__)

# Where a device is served: a socket path, or an open socket.
SOCKET_OPTIONS = {
    "path": Option(vdev.text),
    "fd": Option(vdev.integer(0, 1 << 20)),
}

SWITCH_OPTIONS = {
    "age": Option(vdev.integer(1, 86_400), SwitchConf.age),
    "storm": Option(vdev.integer(0, 1_000_000_000), SwitchConf.storm),
}

# How often a thread that waits for control looks whether it is still there.
_LOOK_S = 0.25

T = TypeVar("T")


@dataclass
class _Served:
    """A device with its data path and its socket."""

    emu: EmuDevice
    data_path: registry.DataPath | None
    server: Server
    host: VfHost | None

    def close(self) -> None:
        # The client first: its memory and eventfds are given back while the data path listens.
        self.server.close()
        self.emu.stop()
        if self.data_path is not None:
            self.data_path.close()
        self.emu.close()
        registry.release(self.emu)


@dataclass
class _Joined:
    """A port with its counters."""

    port: Any
    stats: Segment

    def close(self) -> None:
        self.port.close()
        self.stats.close()


class Backend:
    """Devices, ports and the engine between them, from construction until `stop`.

    `workers`, `cpus` and `idle` are the engine's.  Devices are served from `start` or `run` on;
    devices, ports and connections may be added before and after.
    """

    def __init__(self, workers: int = 1, cpus: Sequence[int] = (), idle: str = "adaptive") -> None:
        """ConfigError when the engine refuses an option."""
        self.engine = Engine(workers, cpus, idle)
        self._loop = Loop()
        self._devices: dict[str, _Served] = {}
        self._ports: dict[str, _Joined] = {}
        self._switches: set[str] = set()
        self._control_server: ControlServer | None = None
        self._thread: threading.Thread | None = None
        # Whoever runs the loop now.
        self._control: threading.Thread | None = None
        self._started = False
        self._stopped = False

    def add_device(self, text: str) -> EmuDevice:
        """Make a device from a vdev string and listen on its socket.

        ConfigError names a wrong option, or who holds the socket; nothing is left behind then.
        """
        return self._on_control(lambda: self._add_device(vdev.parse(text)))

    def add_port(self, text: str) -> None:
        """Make a port from a string such as `tap0,type=tap,ifname=vf0`."""
        self._on_control(lambda: self._add_port(vdev.parse(text)))

    def add_switch(self, text: str) -> None:
        """Make a switch from a string such as `sw0` or `sw0,age=60,storm=10000`.

        `age`: seconds after which an address behind a port is forgotten (300).  `storm`: frames per
        second that each source may flood, 0 for no limit (100000).
        """
        self._on_control(lambda: self._add_switch(vdev.parse(text)))

    def connect(self, *names: str) -> None:
        """Connect devices and ports: one name loops back, two are 1:1, more make a switch.

        When the first name is a switch's, the others join it.
        """
        self._on_control(lambda: self._connect(names))

    def disconnect(self, *names: str) -> None:
        """Undo `connect` of these names; when the first is a switch's, the others leave it."""
        self._on_control(lambda: self._disconnect(names))

    def stations(self, switch: str) -> list[Station]:
        """What a named switch has learned behind its ports; nothing with less than two of them."""
        return self._on_control(lambda: self.engine.stations(switch))

    def switches(self) -> list[SwitchView]:
        """All switches, also those that `connect` made of more than two."""
        return self._on_control(self.engine.switches)

    def serve_control(self, path: str | os.PathLike[str]) -> None:
        """Let the host's side control the VFs over a socket at `path`; see docs/control.md.

        ConfigError when the path is held by a live process or cannot be used.
        """
        self._on_control(lambda: self._serve_control(path))

    @property
    def counters(self) -> dict[str, Table]:
        """The counters of every device and port by name: live (rows, 16) tables, see `stats`."""
        return {name: segment.rows for name, segment in self._segments().items()}

    def start(self) -> None:
        """Serve from a thread of its own until `stop`."""
        self._begin()
        self._thread = threading.Thread(target=self._loop.run, name="control", daemon=True)
        self._control = self._thread
        self._thread.start()

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve in this thread; `on_ready` is called once clients are answered.

        Returns after `interrupt`; `stop` is then still to be called.
        """
        self._begin()
        self._control = threading.current_thread()
        self._loop.call_soon_threadsafe(on_ready)
        try:
            self._loop.run()
        finally:
            self._control = None

    def interrupt(self) -> None:
        """End `run`; for signal handlers and other threads."""
        self._loop.stop()

    def stop(self) -> None:
        """End everything: clients are disconnected, socket files and counters are removed."""
        if self._stopped:
            return
        self._stopped = True
        if self._thread is not None:
            self._loop.stop()
            self._thread.join()
            self._control = None
        if self._control_server is not None:
            self._control_server.close()
        while self._devices:
            self._devices.popitem()[1].close()
        while self._ports:
            joined = self._ports.popitem()[1]
            self.engine.remove(joined.port)
            joined.close()
        self.engine.stop()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _begin(self) -> None:
        if self._started or self._stopped:
            raise StateError("the backend was started before")
        self._started = True
        self.engine.start()

    def _add_device(self, args: VdevArgs) -> EmuDevice:
        self._check_free(args.name)
        model = registry.find_model(args.driver)
        options = vdev.resolve(args, {**SOCKET_OPTIONS, **model.options})
        path, fd = options.pop("path"), options.pop("fd")
        if (path is None) == (fd is None):
            raise ConfigError(f"{args.name}: needs either path= or fd=")
        with ExitStack() as undo:
            provider = model.create(args.name, options, self._loop)
            emu = provider.emu
            undo.callback(registry.release, emu)
            undo.callback(emu.close)
            emu.configure(DeviceConf())
            data_path = model.attach(provider, self.engine) if model.attach is not None else None
            if data_path is not None:
                undo.callback(data_path.close)
            emu.start()
            undo.callback(emu.stop)
            server = Server(self._loop, provider, path if fd is None else fd, args.name)
            undo.pop_all()
        host = model.host(provider) if model.host is not None else None
        self._devices[args.name] = _Served(emu, data_path, server, host)
        _log.info("%s: serving %s", args.name, path if fd is None else f"fd {fd}")
        return emu

    def _add_port(self, args: VdevArgs) -> None:
        self._check_free(args.name)
        rest = dict(args.options)
        kind_name = rest.pop("type", None)
        if kind_name is None:
            raise ConfigError(
                f"{args.name}: type= is missing; there are {', '.join(sorted(port_kinds.kinds))}"
            )
        kind = port_kinds.find_kind(kind_name)
        options = vdev.resolve(VdevArgs(args.driver, args.name, rest), kind.options)
        with ExitStack() as undo:
            stats = Segment(args.name, kind.row_names)
            undo.callback(stats.close)
            port = kind.create(args.name, options, stats.rows)
            undo.pop_all()
        self._ports[args.name] = _Joined(port, stats)
        self.engine.add(port)
        _log.info("%s: %s port", args.name, kind_name)

    def _add_switch(self, args: VdevArgs) -> None:
        self._check_free(args.name)
        values = vdev.resolve(args, SWITCH_OPTIONS)
        self.engine.add_switch(args.name, SwitchConf(**values))
        self._switches.add(args.name)
        _log.info("%s: switch", args.name)

    def _connect(self, names: Sequence[str]) -> None:
        if len(set(names)) != len(names):
            raise ConfigError(f"connect {','.join(names)}: a name is there twice")
        if names and names[0] in self._switches:
            self.engine.join(names[0], *[self._endpoint(name) for name in names[1:]])
        else:
            self.engine.connect(*[self._endpoint(name) for name in names])
        _log.info("connected %s", ",".join(names))

    def _disconnect(self, names: Sequence[str]) -> None:
        if names and names[0] in self._switches:
            for endpoint in [self._endpoint(name) for name in names[1:]]:
                self.engine.leave(names[0], endpoint)
        else:
            self.engine.disconnect(*[self._endpoint(name) for name in names])
        _log.info("disconnected %s", ",".join(names))

    def _serve_control(self, path: str | os.PathLike[str]) -> None:
        if self._control_server is not None:
            raise StateError("the control socket is there already")
        service = Service(self._hosts, self.engine)
        self._control_server = ControlServer(
            self._loop, path, lambda data: respond(data, service.call)
        )
        _log.info("control: %s", path)

    def _hosts(self) -> dict[str, VfHost]:
        return {
            name: served.host for name, served in self._devices.items() if served.host is not None
        }

    def _endpoint(self, name: str) -> Any:
        if name in self._ports:
            return self._ports[name].port
        if name in self._switches:
            raise ConfigError(f"connect: the switch {name} comes first, then who joins it")
        if name not in self._devices:
            there = ", ".join([*self._devices, *self._ports]) or "none"
            raise ConfigError(f"connect: {name!r} is no device or port; there are {there}")
        data_path = self._devices[name].data_path
        if data_path is None:
            raise ConfigError(f"connect: {name} has no data path")
        return data_path.endpoint

    def _check_free(self, name: str) -> None:
        if name in self._switches:
            raise ConfigError(f"{name}: there is a switch of that name already")
        if name in self._devices or name in self._ports:
            raise ConfigError(f"{name}: there is a device or port of that name already")

    def _segments(self) -> dict[str, Segment]:
        devices = {name: served.emu.stats for name, served in self._devices.items()}
        return devices | {name: joined.stats for name, joined in self._ports.items()}

    def _on_control(self, call: Callable[[], T]) -> T:
        """Carry out `call` where nothing of a device is under way, and pass on what it raises."""
        if self._stopped:
            raise StateError("the backend is stopped")
        control = self._control
        if control is None or control is threading.current_thread():
            return call()
        future: Future[T] = Future()

        def carry_out() -> None:
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(carry_out)
        while not wait([future], _LOOK_S).done:
            if self._control is not control or not control.is_alive():
                raise StateError("the backend was stopped meanwhile")
        return future.result()
