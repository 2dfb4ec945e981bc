"""Finding the process that has a VF, and what a caller is told when there is none."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emuiavf.control import client, place
from emuiavf.control.client import ControlClient, NoServer
from emuiavf.control.methods import Fdb, FdbEntry, FdbPage, Reset, Show, VfState
from emuiavf.control.rpc import respond
from emuiavf.control.server import ControlServer
from emuiavf.errors import ConfigError
from emuiavf.loop import Loop


def state(name: str) -> VfState:
    return VfState(
        name=name, driver="none", mac="02:00:00:00:00:01", mac_locked=False, link="up",
        queue_pairs=4, vlan=0, qos=0, proto="802.1Q", spoofchk=False, trust=True,
        link_state="auto", min_rate=0, max_rate=0, mtu=9702, injected=[], answered={}, refused={},
        rules={},
    )  # fmt: skip


class Process:
    """One that has these VFs."""

    def __init__(self, path: Path, *names: str) -> None:
        self.names = names
        self.resets: list[str] = []
        self.loop = Loop()
        self.server = ControlServer(self.loop, path, lambda data: respond(data, self.call))
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def call(self, method: object, params: object) -> list[VfState] | FdbPage | None:
        if isinstance(params, Fdb):
            entry = FdbEntry("02:00:00:00:00:01", "tap0", params.start, params.switch, "learned", 0)
            following = {0: 10, 10: 20, 20: 0, 30: 30}
            return FdbPage([entry], following[params.start])
        if isinstance(params, Show):
            return [state(name) for name in self.names]
        assert isinstance(params, Reset)
        if params.vf == "refused":
            raise ConfigError("refused: not today")
        self.resets.append(params.vf)
        return None

    def stop(self) -> None:
        self.loop.stop()
        self.thread.join()
        self.server.close()
        self.loop.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place.default_path()
    return tmp_path / "emuiavf"


@pytest.fixture
def processes(folder: Path) -> Iterator[list[Process]]:
    made = [
        Process(folder / "1.control", "emu_iavf0", "emu_iavf1"),
        Process(folder / "2.control", "emu_iavf0", "emu_iavf2"),
    ]
    yield made
    for process in made:
        process.stop()


def test_process_that_has_the_vf_is_found(processes: list[Process]) -> None:
    for name, process in (("emu_iavf2", processes[1]), ("vf1", processes[0])):
        with client.find(name) as found:
            found.call("reset", Reset(name))
        assert process.resets == [name]


def test_parts_of_an_answer_are_asked_for_one_after_the_other(processes: list[Process]) -> None:
    with ControlClient(processes[0].server.path) as found:
        assert [entry.vlan for entry in client.fdb(found, "sw0")] == [0, 10, 20]


def test_result_has_its_type(processes: list[Process]) -> None:
    with ControlClient(processes[0].server.path) as found:
        assert client.states(found) == [state("emu_iavf0"), state("emu_iavf1")]


def test_name_that_two_processes_have_needs_a_path(processes: list[Process]) -> None:
    with pytest.raises(ConfigError, match="several processes") as error:
        client.find("vf0")
    assert all(str(process.server.path) in str(error.value) for process in processes)
    with client.find("vf0", str(processes[1].server.path)) as found:
        found.call("reset", Reset("vf0"))
    assert (processes[0].resets, processes[1].resets) == ([], ["vf0"])


def test_unknown_vf_is_told_with_those_that_there_are(processes: list[Process]) -> None:
    with pytest.raises(ConfigError, match=r"no running process.*emu_iavf1, emu_iavf0"):
        client.find("vf9")


@pytest.mark.usefixtures("folder")
def test_nothing_runs() -> None:
    with pytest.raises(ConfigError, match="there are none"):
        client.find("vf0")


def test_refusal_is_raised_in_its_words(processes: list[Process]) -> None:
    with ControlClient(processes[0].server.path) as found:
        with pytest.raises(ConfigError, match=r"^refused: not today$"):
            found.call("reset", Reset("refused"))
        found.call("reset", Reset("vf1"))


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NoServer, match="No such file"):
        ControlClient(tmp_path / "nothing")


def test_what_does_not_answer_json(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "other"))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as peer:
                peer.recv(1000)
                peer.sendall(b"220 mail.example ESMTP\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with ControlClient(tmp_path / "other") as found, pytest.raises(ConfigError):
            found.call("reset", Reset("vf0"))
        thread.join()


def test_dead_processes_leave_nothing_for_long(folder: Path) -> None:
    dead = folder / "999999999.control"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    live = Process(folder / "2.control", "emu_iavf0")
    (found,) = client.open_all()
    found.close()
    assert found.path == live.server.path
    assert place.default_path() == folder / f"{os.getpid()}.control"
    assert [path.name for path in place.sockets()] == ["2.control"]
    live.stop()


def test_folder_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "emuiavf").mkdir()
    (tmp_path / "emuiavf").chmod(0o777)
    (tmp_path / "emuiavf" / "1.control").touch()
    assert place.sockets() == []
    with pytest.raises(ConfigError, match="may be written by others"):
        place.default_path()


def test_without_a_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert place.runtime_dir() == Path("/run/emuiavf")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert place.runtime_dir() == Path("/tmp/emuiavf-1000")
