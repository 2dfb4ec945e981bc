"""What the drivers in a test have asked over virtchnl, for the report that a run of tests leaves.

Backends come and go with fixtures of any scope, so they are noted here.  Counts are those of a
backend's whole life: a test owns what happened up to its end.  `tests/compatibility.py` compares
them with the table of docs/compatibility.md.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from emuiavf.control.client import ControlClient, states
from emuiavf.control.place import SUFFIX, runtime_dir
from emuiavf.errors import ConfigError

ANSWERED, REFUSED = "virtchnl answered", "virtchnl refused"

Asked = dict[str, set[str]]
"""Names of opcodes, by ANSWERED and REFUSED."""


class Backend(Protocol):
    arguments: list[str]

    @property
    def pid(self) -> int: ...


_running: dict[int, Backend] = {}
_kept: dict[int, Asked] = {}
_ended: list[Asked] = []
_ours: set[str] = set()


def began(backend: Backend) -> None:
    _running[backend.pid] = backend


def ends(backend: Backend) -> None:
    """It is about to be stopped, or is gone already."""
    if _running.pop(backend.pid, None) is not None:
        _ended.append(_kept.pop(backend.pid, None) or _look(backend))


def keep(backend: Backend) -> None:
    """What follows is another driver's: the backend is looked at for the last time."""
    _kept[backend.pid] = _look(backend)


def is_ours(path: Path) -> None:
    """The device of this socket is driven by our own library, and says nothing about others."""
    _ours.add(str(path))


@contextmanager
def recorded(properties: list[tuple[str, object]]) -> Iterator[None]:
    """Adds to a test's properties what was asked until the end of the block."""
    _ended.clear()
    yield
    looks = [_kept.get(pid) or _look(backend) for pid, backend in _running.items()]
    for kind in (ANSWERED, REFUSED):
        names: set[str] = set().union(*(look[kind] for look in [*_ended, *looks]))
        if names:
            properties.append((kind, " ".join(sorted(names))))
    _ended.clear()


def _look(backend: Backend) -> Asked:
    """Nothing of a backend that does not answer (any more)."""
    asked: Asked = {ANSWERED: set(), REFUSED: set()}
    words = " ".join(backend.arguments)
    ours = {name for name, path in re.findall(r"(\w+),path=([^, ]+)", words) if path in _ours}
    try:
        with ControlClient(_socket(backend)) as client:
            for state in states(client):
                if state.name not in ours:
                    asked[ANSWERED] |= state.answered.keys()
                    asked[REFUSED] |= state.refused.keys()
    except (ConfigError, OSError):
        pass
    return asked


def _socket(backend: Backend) -> Path:
    """Where it listens: as it was told, or in the runtime directory of whoever it runs as."""
    words = backend.arguments
    if "--control" in words:
        return Path(words[words.index("--control") + 1])
    environment = Path(f"/proc/{backend.pid}/environ").read_bytes().decode().split("\0")
    given = dict(item.partition("=")[::2] for item in environment).get("XDG_RUNTIME_DIR")
    folder = Path(given) / "emuiavf" if given else runtime_dir()
    return folder / f"{backend.pid}{SUFFIX}"
