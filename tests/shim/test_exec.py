"""`emuiavf exec` from outside: what it refuses, passes on and leaves behind."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shim.conftest import ROOT, TIMEOUT_S, Run, command, program

pytestmark = pytest.mark.slow


def execute(device: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(device), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=TIMEOUT_S,
        env={**os.environ, **environment},
    )


@pytest.fixture
def device(sockets: list[Path]) -> str:
    return f"path={sockets[1]},addr=0000:3f:00.0"


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("addr=0000:3f:00.0", "path= is missing"),
        ("path=x,addr=3f:00.0", "a PCI address is as 0000:3f:00.0"),
        ("path=x,adr=1", "'adr=1' is neither"),
        ("path=x,path=y", "'path=y' is neither"),
        ("path=/nonexistent/vf0.sock", "start `emuiavf run` first"),
        ("path=/etc/passwd", "is `emuiavf run` serving it?"),
        ("path=/" + "x" * 200, "at most 107 bytes"),
    ],
)
def test_wrong_device_is_named(device: str, why: str) -> None:
    done = execute(device, "true")
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_address_of_the_machine_is_refused(sockets: list[Path], tmp_path: Path) -> None:
    (tmp_path / "0000:00:05.0").mkdir()
    done = execute(f"path={sockets[0]},addr=0000:00:05.0", "true", SYSFS_PCI_DEVICES=str(tmp_path))
    assert done.returncode == 2
    assert "the machine has a device of this address" in done.stderr


def test_missing_program_is_named(device: str) -> None:
    done = execute(device, "no-such-program")
    assert done.returncode == 2
    assert "no-such-program: no such program" in done.stderr


def test_address_is_chosen_where_none_is_given(sockets: list[Path]) -> None:
    done = execute(f"path={sockets[1]}", *program("print(os.listdir('/dev/vfio'))"))
    assert "is 0000:3f:00.0" in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("status", [0, 1, 77])
def test_exit_status_passes_through(run: Run, status: int) -> None:
    run(f"sys.exit({status})", status)


def test_death_by_a_signal_passes_through(device: str) -> None:
    assert execute(device, "sh", "-c", "kill -USR1 $$").returncode == -signal.SIGUSR1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
def test_signals_reach_the_program(device: str, number: signal.Signals) -> None:
    code = f"""
    signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])
    print("ready", flush=True)
    print(signal.sigwait([{int(number)}]) == {int(number)}, flush=True)
    """
    child = subprocess.Popen(
        [*command(device), *program(code)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    assert select.select([child.stdout], [], [], TIMEOUT_S)[0]
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    assert child.communicate(timeout=TIMEOUT_S)[0] == "True\n"
    assert child.returncode == 0


def test_private_folder_goes_away(device: str, tmp_path: Path) -> None:
    code = "print(os.environ['EMUIAVF_EXEC_DIR'])"
    done = execute(device, *program(code), TMPDIR=str(tmp_path))
    assert done.stdout.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_another_preloaded_library_is_kept(device: str) -> None:
    given = os.environ.get("LD_PRELOAD", "")
    done = execute(device, "printenv", "LD_PRELOAD", LD_PRELOAD=f"{given}:libdl.so.2".lstrip(":"))
    first, _, last = done.stdout.strip().rpartition(":")
    assert first.endswith("libdl.so.2")
    assert last.endswith("/shim/preload.so")


def test_statically_linked_program_is_refused(device: str, tmp_path: Path) -> None:
    source = tmp_path / "static.s"
    source.write_text(".globl _start\n_start: mov $60, %eax\nxor %edi, %edi\nsyscall\n")
    binary = tmp_path / "static"
    made = ["gcc", "-nostdlib", "-static", "-o", str(binary), str(source)]
    subprocess.run(made, check=True, env={**os.environ, "LD_PRELOAD": ""})
    done = execute(device, str(binary))
    assert done.returncode == 2
    assert "linked statically" in done.stderr


def test_device_in_use_is_named(device: str) -> None:
    holder = subprocess.Popen(
        [*command(device), *program("v = Vfio()\nprint('open', flush=True)\nsys.stdin.read()")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    done = execute(device, sys.executable, "-c", "pass")
    holder.communicate(timeout=TIMEOUT_S)
    assert done.returncode == 2
    assert "another client may have the device" in done.stderr
    assert execute(device, "true").returncode == 0


def test_killed_program_leaves_a_device_that_can_be_had_again(device: str) -> None:
    for _ in range(3):
        code = "v = Vfio()\nos.kill(os.getpid(), signal.SIGKILL)"
        assert execute(device, *program(code)).returncode == -signal.SIGKILL
    assert execute(device, *program("assert len(Vfio().read(CONFIG)) == 4")).returncode == 0
