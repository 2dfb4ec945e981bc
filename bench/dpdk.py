"""A `dpdk-testpmd` with the drivers that peers need: the installed one, or Debian's own packages
unpacked below a cache folder.  Nothing is installed, no root rights are needed."""

import os
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "dpdk"
DRIVERS = (
    "bus_pci",
    "bus_vdev",
    "mempool_ring",
    "net_iavf",
    "net_memif",
    "net_vhost",
    "net_virtio",
)
PACKAGE = "dpdk-dev"  # has testpmd; what it depends on has the drivers
# Dependencies that testpmd does not load.
DROP = re.compile(
    r"(?!dpdk-dev$)(.*-dev|librte-meta-.*|lib(systemd|udev|nss|pam|dbus).*|systemd.*|udev|rdma-core)"
)
APT_TIMEOUT_S = 600


class Missing(Exception):
    """No testpmd, or not all drivers: what to do about it, in one line."""


@dataclass(frozen=True)
class Testpmd:
    """How to run it: the program, its environment, and the options that load its drivers."""

    program: str
    version: str
    env: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def cache_folder(wanted: Path = CACHE) -> Path:
    """Where to unpack DPDK: `wanted`, unless it lies below a folder that everybody may write to,
    such as /tmp.  EAL loads no driver from there."""
    wanted = wanted.resolve()
    for folder in wanted.parents:
        if folder.exists() and folder.stat().st_mode & stat.S_IWOTH:
            return Path.home() / ".cache" / "emuiavf" / "dpdk"
    return wanted


def find(*, fetch: bool = True, cache: Path | None = None) -> Testpmd:
    """The installed one if it has all DRIVERS, else one from the cache, fetched when it is not
    there.  Missing when there is none."""
    cache = cache or cache_folder() / "peers"
    installed = shutil.which("dpdk-testpmd")
    if installed is not None and _drivers(Path("/usr/lib")):
        return _described(Testpmd(installed, ""))
    unpacked = cache / "root"
    if not unpacked.exists():
        if not fetch:
            raise Missing("no dpdk-testpmd (Debian: apt-get install dpdk-dev)")
        _fetch(cache)
    drivers = _drivers(unpacked / "usr/lib")
    if not drivers:
        raise Missing(f"{unpacked}: not all of {', '.join(DRIVERS)}; remove it and try again")
    options: tuple[str, ...] = ()
    for path in drivers:
        options += ("-d", str(path))
    libraries = drivers[0].parents[2]
    return _described(
        Testpmd(
            str(unpacked / "usr/bin/dpdk-testpmd"),
            "",
            {"LD_LIBRARY_PATH": f"{libraries}:{unpacked / 'lib' / libraries.name}"},
            options,
        )
    )


def _described(found: Testpmd) -> Testpmd:
    """With its version; Missing when it does not even start."""
    said = subprocess.run(
        [found.program, *found.options, "-v", "-h"],
        env={**os.environ, **found.env},
        capture_output=True,
        text=True,
        check=False,
    )
    version = re.search(r"DPDK [\d.]+", said.stdout + said.stderr)
    if version is None:
        raise Missing(f"{found.program}: {(said.stderr or said.stdout).strip()[-200:]}")
    return Testpmd(found.program, version[0], found.env, found.options)


def _drivers(top: Path) -> list[Path]:
    """The drivers below a folder, in the order of DRIVERS; none when one is missing."""
    found = []
    for name in DRIVERS:
        paths = sorted(top.glob(f"*/dpdk/pmds-*/librte_{name}.so.[0-9][0-9]"))
        if not paths:
            return []
        found.append(paths[-1])
    return found


def _fetch(cache: Path) -> None:
    wanted = [name for name in _closure() if not DROP.fullmatch(name)]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _apt("apt-get", "download", *wanted, cwd=folder)
        root = Path(folder, "root")
        root.mkdir()
        for deb in sorted(Path(folder).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(deb), str(root)], check=True)
        # Whole or not at all.
        root.rename(cache / "root")


def _closure() -> list[str]:
    """The packages that would be installed; Missing where apt does not know them."""
    command = ("apt-get", "install", "-s", "-y", "--no-install-recommends", PACKAGE)
    if shutil.which("apt-get") is None:
        raise Missing("no dpdk-testpmd, and no apt to fetch it with")
    try:
        said = _apt(*command)
    except Missing:
        _apt("apt-get", "update")
        said = _apt(*command)
    return re.findall(r"^Inst (\S+) ", said, re.MULTILINE)


def _apt(*command: str, cwd: str | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=APT_TIMEOUT_S,
        check=False,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["failed"])[-1]
        raise Missing(f"no dpdk-testpmd, and {' '.join(command[:2])}: {last}")
    return done.stdout
