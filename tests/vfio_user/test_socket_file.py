"""Stale, live and foreign socket files; the lock file beside them decides."""

import os
import socket
from pathlib import Path

import pytest

from emuiavf.errors import ConfigError
from emuiavf.vfio_user.socket_file import SocketFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vf.sock"


def bind(path: Path) -> None:
    """Leave a socket file as a process that died would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))


@pytest.mark.vfio_user("12.20.1")
def test_socket_and_lock_appear_and_disappear(path: Path) -> None:
    file = SocketFile(path)
    listener = file.listen()
    assert file.lock_path.read_text() == f"{os.getpid()}\n"
    assert path.is_socket()
    listener.close()
    file.release()
    file.release()
    assert list(path.parent.iterdir()) == []


def test_client_can_connect_at_once(path: Path) -> None:
    file = SocketFile(path)
    listener = file.listen()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(path))
    listener.close()
    file.release()


def test_stale_socket_and_lock_of_a_dead_process_are_replaced(path: Path) -> None:
    bind(path)
    Path(f"{path}.lock").write_text("4194303\n")
    file = SocketFile(path)
    file.listen().close()
    assert file.lock_path.read_text() == f"{os.getpid()}\n"
    file.release()


def test_path_held_by_a_live_process_is_refused_by_name_and_pid(path: Path) -> None:
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        SocketFile(path).listen()
        os.write(ready[1], b"x")
        os.close(go[1])
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    name = Path(f"/proc/{child}/comm").read_text().strip()
    with pytest.raises(ConfigError, match=rf"vf\.sock: held by {name}, pid {child}$"):
        SocketFile(path)
    os.close(go[1])
    os.waitpid(child, 0)
    # It died without cleaning up: both files are there, and stale.
    assert path.is_socket()
    file = SocketFile(path)
    file.listen().close()
    file.release()
    for fd in (*ready, go[0]):
        os.close(fd)


def test_path_held_by_this_process_is_refused(path: Path) -> None:
    file = SocketFile(path)
    with pytest.raises(ConfigError, match=f"pid {os.getpid()}"):
        SocketFile(path)
    file.release()


def test_lock_file_without_a_pid_is_still_a_lock(path: Path) -> None:
    file = SocketFile(path)
    file.lock_path.write_text("")
    with pytest.raises(ConfigError, match="held by another process"):
        SocketFile(path)
    file.release()


def test_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    file = SocketFile(path)
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        file.listen()
    file.release()
    assert path.read_text() == "precious"
    assert not file.lock_path.exists()


def test_symbolic_link_is_left_alone(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")
    file = SocketFile(path)
    with pytest.raises(ConfigError, match="is not a socket"):
        file.listen()
    file.release()
    assert path.is_symlink()


def test_socket_that_somebody_replaced_is_left_alone(path: Path) -> None:
    file = SocketFile(path)
    file.listen().close()
    path.rename(path.with_suffix(".old"))
    bind(path)
    file.release()
    assert path.is_socket()


@pytest.mark.parametrize("name", ["missing/vf.sock", "x" * 120])
@pytest.mark.vfio_user("12.20.2")
def test_path_that_cannot_be_used_is_a_config_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name[:8]):
        listen_at(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def listen_at(path: Path) -> None:
    file = SocketFile(path)
    try:
        file.listen().close()
    finally:
        file.release()
