"""Where control sockets are: by default one per process in the user's runtime directory."""

import os
from pathlib import Path

from emuiavf.errors import ConfigError
from emuiavf.vfio_user.socket_file import remove_dead

SUFFIX = ".control"


def runtime_dir() -> Path:
    """`$XDG_RUNTIME_DIR/emuiavf`; without it /run/emuiavf for root, /tmp/emuiavf-UID for others."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        return Path(given) / "emuiavf"
    uid = os.getuid()
    return Path("/run/emuiavf") if uid == 0 else Path(f"/tmp/emuiavf-{uid}")


def default_path() -> Path:
    """This process's place; the directory is made, and what dead processes left there removed.

    ConfigError when the directory is not ours alone.
    """
    folder = runtime_dir()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"{folder}: {fault.strerror}") from None
    if not _is_ours(folder):
        raise ConfigError(f"{folder}: belongs to another user or may be written by others")
    for path in folder.glob(f"*{SUFFIX}"):
        remove_dead(path)
    return folder / f"{os.getpid()}{SUFFIX}"


def sockets() -> list[Path]:
    """The control sockets of this user's processes; none where others could have put them."""
    folder = runtime_dir()
    return sorted(folder.glob(f"*{SUFFIX}")) if _is_ours(folder) else []


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can put anything there; not so for a link, which anybody may make."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
