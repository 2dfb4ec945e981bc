"""Backend: what belongs together, in which thread, and what is left behind (nothing)."""

import gc
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import emuiavf
from emuiavf.app import Backend
from emuiavf.datapath._endpoint import Endpoint
from emuiavf.emudev import registry, vdev
from emuiavf.emudev.device import DeviceState
from emuiavf.emudev.vdev import Option
from emuiavf.errors import ConfigError, PeerError, StateError
from emuiavf.ports import registry as port_kinds
from emuiavf.ports.registry import PortKind
from emuiavf.stats import Table, open_segment
from emuiavf.vfio_user.client import Client
from tests.fakes.scratch_device import BAR0, MODEL, ScratchDevice

LOG: list[str] = []


class FakePort(Endpoint):
    """An endpoint that carries nothing."""

    def __init__(self, name: str, options: dict[str, Any], rows: Table) -> None:
        if options["fail"]:
            raise ConfigError(f"{name}: cannot be made")
        self.rows = rows
        rows[0, 6] = 5

    def close(self) -> None:
        LOG.append("port closed")


class FakeDataPath:
    def __init__(self, device: ScratchDevice, engine: Any) -> None:
        self.endpoint = Endpoint()
        self._engine = engine
        engine.add(self.endpoint)

    def close(self) -> None:
        self._engine.remove(self.endpoint)
        LOG.append("data path closed")


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    LOG.clear()
    monkeypatch.setitem(registry.models, "emu_scratch", MODEL)
    monkeypatch.setitem(registry.models, "emu_wired", replace(MODEL, attach=FakeDataPath))
    fake = PortKind({"fail": Option(vdev.switch, False)}, FakePort)
    monkeypatch.setitem(port_kinds.kinds, "fake", fake)


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as made:
        yield made


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "dev.sock"


def open_fds() -> int:
    # Devices and their callbacks refer to each other, and counters live as long as any view.
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_backend_is_exported() -> None:
    assert emuiavf.Backend is Backend


def test_registered_model_is_served_over_its_socket(backend: Backend, socket_path: Path) -> None:
    backend.add_device(f"emu_scratch0,path={socket_path},fill=7")
    backend.start()
    with Client(socket_path) as client:
        assert client.read32(BAR0, 0) == 0x07070707


def test_device_added_while_running_is_served(backend: Backend, socket_path: Path) -> None:
    backend.start()
    backend.add_device(f"emu_scratch0,path={socket_path}")
    with Client(socket_path) as client:
        client.write32(BAR0, 8, 0xABCD)
        assert client.read32(BAR0, 8) == 0xABCD


def test_device_added_from_another_thread_is_made_in_the_control_thread(
    backend: Backend, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_in: list[str] = []

    def create(name: str, options: dict[str, Any], loop: Any) -> ScratchDevice:
        made_in.append(threading.current_thread().name)
        return ScratchDevice(name, options, loop)

    monkeypatch.setitem(registry.models, "emu_scratch", replace(MODEL, create=create))
    backend.start()
    backend.add_device(f"emu_scratch0,path={socket_path}")
    with pytest.raises(ConfigError, match="needs either"):
        backend.add_device("emu_scratch1")
    assert made_in == ["control"]


def test_device_on_a_socket_that_is_passed_in(backend: Backend, socket_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(socket_path))
    listener.listen()
    backend.add_device(f"emu_scratch0,fd={listener.detach()}")
    backend.start()
    with Client(socket_path) as client:
        assert client.read32(BAR0, 0) == 0


def serve_once(socket_path: Path) -> None:
    with Backend() as backend:
        backend.add_device(f"emu_wired0,path={socket_path}")
        backend.add_port("port0,type=fake")
        backend.connect("emu_wired0", "port0")
        backend.start()
        Client(socket_path).close()


def test_stop_leaves_nothing_behind(socket_path: Path) -> None:
    before = open_fds()
    serve_once(socket_path)
    assert LOG == ["data path closed", "port closed"]
    assert list(socket_path.parent.iterdir()) == []
    assert list(Path("/dev/shm").glob(f"emuiavf-{os.getpid()}-*")) == []
    assert open_fds() == before


def test_stop_disconnects_a_client_and_closes_its_device(socket_path: Path) -> None:
    with Backend() as backend:
        emu = backend.add_device(f"emu_scratch0,path={socket_path}")
        backend.start()
        client = Client(socket_path)
    assert emu.state is DeviceState.CLOSED
    with pytest.raises((OSError, PeerError)):
        client.read32(BAR0, 0)
    client.close()


def test_stop_twice_is_harmless(backend: Backend) -> None:
    backend.start()
    backend.stop()
    backend.stop()


def test_start_twice_is_refused(backend: Backend) -> None:
    backend.start()
    with pytest.raises(StateError):
        backend.start()


def test_stopped_backend_takes_nothing_more(backend: Backend) -> None:
    backend.stop()
    with pytest.raises(StateError):
        backend.add_port("port0,type=fake")


def test_run_serves_until_interrupted(backend: Backend, socket_path: Path) -> None:
    backend.add_device(f"emu_scratch0,path={socket_path}")
    answered: list[int] = []

    def visit() -> None:
        backend.add_port("port0,type=fake")
        with Client(socket_path) as client:
            answered.append(client.read32(BAR0, 0))
        backend.interrupt()

    visitor = threading.Thread(target=visit)
    backend.run(visitor.start)
    visitor.join()
    assert answered == [0]


def test_counters_are_live_tables_by_name(backend: Backend, socket_path: Path) -> None:
    backend.add_device(f"emu_scratch0,path={socket_path}")
    backend.add_port("port0,type=fake")
    assert {name: table.shape for name, table in backend.counters.items()} == {
        "emu_scratch0": (2, 16),
        "port0": (2, 16),
    }
    assert backend.counters["port0"][0, 6] == 5
    assert open_segment(f"{os.getpid()}-port0").rows[0, 6] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emu_nosuch0,path=x", "no device model 'emu_nosuch'; there are .*emu_scratch"),
        ("emu_scratch0", "emu_scratch0: needs either path= or fd="),
        ("emu_scratch0,path=x,fd=3", "emu_scratch0: needs either path= or fd="),
        ("emu_scratch0,path=x,fill=256", "emu_scratch0: fill=256: at most 255"),
        (
            "emu_scratch0,path=x,queues=1",
            "emu_scratch0: no option 'queues'; there are path, fd, fill",
        ),
        ("emu_scratch0,path=/nonexistent/x", "/nonexistent/x.*No such file"),
        ("emu_scratch0,fd=999", "emu_scratch0: descriptor 999"),
    ],
)
def test_device_that_cannot_be_made_is_named_and_leaves_nothing(
    backend: Backend, text: str, message: str
) -> None:
    before = open_fds()
    with pytest.raises(ConfigError, match=message):
        backend.add_device(text)
    assert (open_fds(), backend.counters) == (before, {})
    with pytest.raises(ConfigError, match="no such device"):
        registry.lookup("emu_scratch0")


def test_socket_held_by_another_device_is_refused(backend: Backend, socket_path: Path) -> None:
    backend.add_device(f"emu_scratch0,path={socket_path}")
    with pytest.raises(ConfigError, match=rf"held by .*pid {os.getpid()}"):
        backend.add_device(f"emu_scratch1,path={socket_path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port0", "port0: type= is missing; there are .*fake"),
        ("port0,type=nosuch", "no port type 'nosuch'; there are .*fake"),
        ("port0,type=fake,x=1", "port0: no option 'x'; there are fail"),
        ("port0,type=fake,fail=on", "port0: cannot be made"),
    ],
)
def test_port_that_cannot_be_made_is_named_and_leaves_nothing(
    backend: Backend, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        backend.add_port(text)
    assert backend.counters == {}
    backend.add_port("port0,type=fake")


def test_name_can_be_used_once(backend: Backend) -> None:
    backend.add_port("port0,type=fake")
    with pytest.raises(ConfigError, match="port0: there is a device or port of that name"):
        backend.add_port("port0,type=fake")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["port0", "nosuch"], "'nosuch' is no device or port; there are emu_scratch0, port0"),
        (["port0", "port0"], "connect port0,port0: a name is there twice"),
        (["port0", "emu_scratch0"], "connect: emu_scratch0 has no data path"),
        ([], "nothing to connect"),
    ],
)
def test_connection_that_cannot_be_made_is_named(
    backend: Backend, socket_path: Path, names: list[str], message: str
) -> None:
    backend.add_device(f"emu_scratch0,path={socket_path}")
    backend.add_port("port0,type=fake")
    with pytest.raises(ConfigError, match=message):
        backend.connect(*names)


def test_connection_is_made_once(backend: Backend) -> None:
    backend.add_port("port0,type=fake")
    backend.connect("port0")
    with pytest.raises(ConfigError, match="connected already"):
        backend.connect("port0")


def test_members_join_a_switch_by_its_name(backend: Backend) -> None:
    backend.add_switch("sw0,storm=0")
    for port in ("port0", "port1", "port2"):
        backend.add_port(f"{port},type=fake")
    backend.connect("sw0", "port0", "port1")
    backend.connect("sw0", "port2")
    with pytest.raises(ConfigError, match="connected already"):
        backend.connect("port0", "port1")
    assert backend.stations("sw0") == []
    assert [(one.name, len(one.members)) for one in backend.switches()] == [("sw0", 3)]
    with pytest.raises(ConfigError, match="no switch 'sw1'; there are sw0"):
        backend.stations("sw1")
    backend.disconnect("sw0", "port0", "port1")
    backend.connect("port0", "port1")
    backend.disconnect("port0", "port1")
    backend.connect("sw0", "port1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sw0", "sw0: there is a switch of that name already"),
        ("port0", "port0: there is a device or port of that name"),
        ("sw1,age=0", "sw1: age=0: at least 1"),
        ("sw1,size=3", "sw1: no option 'size'; there are age, storm"),
        ("7,age=3", "is not a name"),
    ],
)
def test_switch_that_cannot_be_made_is_named(backend: Backend, text: str, message: str) -> None:
    backend.add_switch("sw0")
    backend.add_port("port0,type=fake")
    with pytest.raises(ConfigError, match=message):
        backend.add_switch(text)


def test_switch_is_no_member(backend: Backend) -> None:
    backend.add_switch("sw0")
    backend.add_port("port0,type=fake")
    with pytest.raises(ConfigError, match="the switch sw0 comes first"):
        backend.connect("port0", "sw0")
    with pytest.raises(ConfigError, match="no member of sw0"):
        backend.disconnect("sw0", "port0")
    with pytest.raises(ConfigError, match="sw0: there is a switch of that name"):
        backend.add_port("sw0,type=fake")


@pytest.mark.parametrize("options", [{"workers": 0}, {"idle": "sometimes"}])
def test_engine_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Backend(**options)
