"""`emuiavf run` from outside: what it prints, serves, refuses and leaves behind."""

import json
import os
import resource
import shlex
import signal
import socket
import time
from pathlib import Path

import pytest

from emuiavf.cli.run import parse_cpus, qemu_options
from emuiavf.control import place
from emuiavf.errors import ConfigError
from emuiavf.vfio_user.client import Client
from tests.cli.process import Running, emuiavf
from tests.fakes.scratch_device import BAR0
from tests.timing import best_of

pytestmark = pytest.mark.slow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dev.sock"


def segments_of(pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"emuiavf-{pid}-*"))


def test_ready_is_told_once_and_clients_are_answered(path: Path) -> None:
    with Running("--vdev", f"emu_scratch0,path={path},fill=3") as backend:
        with Client(path) as client:
            assert client.read32(BAR0, 0) == 0x03030303
        assert backend.ready == b"\n"


def test_it_may_have_as_many_fds_as_the_system_allows(path: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Running("--vdev", f"emu_scratch0,path={path}") as backend:
        assert resource.prlimit(backend.pid, resource.RLIMIT_NOFILE) == (most, most)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly(path: Path, number: signal.Signals) -> None:
    with Running("--vdev", f"emu_scratch0,path={path}") as backend, Client(path):
        there = segments_of(backend.pid)
        code, _, err = backend.end(number)
    assert (code, len(there), segments_of(backend.pid)) == (0, 1, [])
    assert list(path.parent.iterdir()) == []
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_in_under_a_second(path: Path, number: signal.Signals) -> None:
    def run() -> float:
        with Running("--vdev", f"emu_scratch0,path={path}") as backend, Client(path):
            before = time.monotonic()
            backend.end(number)
            return time.monotonic() - before

    assert best_of(8, 1.0, run) < 1.0


@pytest.mark.parametrize("idle", ["busy", "adaptive"])
def test_iavf_devices_with_workers_end_as_cleanly(path: Path, idle: str) -> None:
    paths = [f"{path}{i}" for i in range(2)]
    vdevs = [f"--vdev=emu_iavf{i},path={paths[i]},mac=52:54:00:00:00:0{i}" for i in range(2)]
    with (
        Running(
            *vdevs, "--connect=emu_iavf0,emu_iavf1", "--workers=2", f"--idle={idle}"
        ) as backend,
        Client(paths[0]) as client,
        Client(paths[1]),
    ):
        identity = client.region_read(7, 0, 4)
        code, _, err = backend.end(signal.SIGTERM)
    assert (identity, code, segments_of(backend.pid)) == (b"\x86\x80\x89\x18", 0, [])
    assert list(path.parent.iterdir()) == []
    assert "Traceback" not in err


def test_switches_with_names_are_served_and_end_as_cleanly(path: Path) -> None:
    vdevs = [f"--vdev=emu_iavf{i},path={path}{i}" for i in range(3)]
    switches = ("--switch=sw0,storm=0", "--switch=sw1,age=10", "--port=sink0,type=null")
    joined = ("--connect=sw0,emu_iavf0,emu_iavf1", "--connect=sw1,emu_iavf2", "--connect=sw1,sink0")
    with Running(*vdevs, *switches, *joined) as backend, Client(f"{path}0"):
        code, _, err = backend.end(signal.SIGTERM)
    assert (code, segments_of(backend.pid)) == (0, [])
    assert "connected sw1,sink0" in err
    assert "Traceback" not in err


def test_switch_that_is_not_there_is_named(path: Path) -> None:
    done = emuiavf("run", "--vdev", f"emu_iavf0,path={path}", "--connect", "sw0,emu_iavf0")
    assert done.returncode != 0
    assert "connect: 'sw0' is no device or port" in done.stderr


def test_every_log_line_is_one_event(path: Path) -> None:
    with Running("--vdev", f"emu_scratch0,path={path}") as backend:
        _, _, err = backend.end(signal.SIGTERM)
    words = [line.split(" INFO ")[1] for line in err.splitlines()]
    control = f"control: {place.runtime_dir()}/{backend.pid}.control"
    assert words == [f"emu_scratch0: serving {path}", control, "ready", "stopping"]


def test_log_level_leaves_out_what_is_less(path: Path) -> None:
    with Running("--vdev", f"emu_scratch0,path={path}", "--log-level", "error") as backend:
        _, _, err = backend.end(signal.SIGTERM)
    assert err == ""


def test_qemu_options_are_printed_for_each_device(path: Path) -> None:
    devices = [f"emu_scratch{i},path={path}{i}" for i in range(2)]
    with Running("--vdev", devices[0], "--vdev", devices[1]) as backend:
        _, out, _ = backend.end(signal.SIGTERM)
    assert out == qemu_options(devices) + "\n"


def test_qemu_options_paste_into_a_shell() -> None:
    text = qemu_options(["emu_iavf0,path=/run/vf0.sock"]).replace("\\\n", "")
    words = shlex.split(text, comments=True)
    device = json.loads(words.pop())
    assert words == [
        "-machine", "q35,memory-backend=mem0", "-m", "2G",
        "-object", "memory-backend-memfd,id=mem0,size=2G,share=on",
        "-device",
    ]  # fmt: skip
    assert device == {
        "driver": "vfio-user-pci",
        "id": "emu_iavf0",
        "socket": {"type": "unix", "path": "/run/vf0.sock"},
    }


def test_socket_of_a_killed_process_is_replaced_and_its_counters_removed(path: Path) -> None:
    with Running("--vdev", f"emu_scratch0,path={path}") as killed:
        killed.end(signal.SIGKILL)
        left = (path.exists(), len(segments_of(killed.pid)))
        with Running("--vdev", f"emu_scratch0,path={path}"), Client(path) as client:
            assert client.read32(BAR0, 0) == 0
    assert (left, segments_of(killed.pid)) == ((True, 1), [])


def test_socket_of_a_live_process_is_refused_by_pid(path: Path) -> None:
    with Running("--vdev", f"emu_scratch0,path={path}") as backend:
        refused = emuiavf("run", "--vdev", f"emu_scratch0,path={path}")
        with Client(path) as client:
            assert client.read32(BAR0, 0) == 0
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"emuiavf: {path}: held by ")
    assert f"pid {backend.pid}" in refused.stderr


def test_socket_path_option_completes_the_only_device(path: Path) -> None:
    with Running("--vdev", "emu_scratch0", "--socket-path", str(path)), Client(path) as client:
        assert client.read32(BAR0, 0) == 0


def test_fd_option_takes_a_listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        with (
            Running("--vdev", "emu_scratch0", "--fd", str(fd), pass_fds=(fd,)),
            Client(path) as client,
        ):
            assert client.read32(BAR0, 0) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to serve: no --vdev"),
        (["--vdev", "emu_scratch0"], "emu_scratch0: needs either path= or fd="),
        (["--vdev", "emu_scratch0,path=x,fill=300"], "emu_scratch0: fill=300: at most 255"),
        (["--vdev", "emu_x0,path=x"], "no device model 'emu_x'"),
        (["--vdev", "emu_scratch0,path=$", "--port", "p"], "p: type= is missing"),
        (["--vdev", "emu_scratch0,path=$", "--connect", "emu_x0"], "'emu_x0' is no device or port"),
        (["--vdev", "emu_scratch0,path=$", "--workers", "0"], "workers=0"),
        (["--vdev", "emu_scratch0,path=$", "--cpus", "x"], "--cpus x: 'x' is neither a CPU"),
        (["--vdev", "emu_scratch0,path=$", "--ready-fd", "77"], "--ready-fd 77: Bad file"),
        (["--vdev", "a0", "--vdev", "b0", "--fd", "3"], "are for exactly one --vdev"),
    ],
)
def test_wrong_option_is_one_line_and_exit_code_2(
    path: Path, args: list[str], message: str
) -> None:
    result = emuiavf("run", "--log-level", "error", *[arg.replace("$", str(path)) for arg in args])
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("emuiavf: ")
    assert message in result.stderr
    assert list(path.parent.iterdir()) == []


@pytest.fixture
def _cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 6})


@pytest.mark.usefixtures("_cpus")
@pytest.mark.parametrize(("text", "cpus"), [("", []), ("2", [2]), ("6,1-3", [6, 1, 2, 3])])
def test_cpu_list(text: str, cpus: list[int]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.usefixtures("_cpus")
@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "7", "0-99999999999", "4", "1-2-3", "²"])
def test_cpu_list_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="--cpus"):
        parse_cpus(text)
