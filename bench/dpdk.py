"""Debian's own DPDK and what runs on it, unpacked below a cache folder; for benches and tests.

Run with the loader and libraries that come with it, see debian.py; EMUIAVF_DPDK_CACHE names another
folder.
"""

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench import debian

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "dpdk"
FORM = 1  # of the cache; another form is fetched anew


@dataclass(frozen=True)
class Release:
    """Programs on the DPDK of a Debian suite; `abi` is the suffix of its drivers."""

    version: str
    suite: str
    abi: str
    programs: tuple[str, ...] = ("dpdk-dev",)
    name: str = ""  # of its folder, where it is not the suite's

    @property
    def packages(self) -> list[str]:
        number = self.abi.partition(".")[0]
        return [
            *self.programs,
            *(f"librte-{name}{number}" for name in ("mempool-ring", "net-iavf")),
        ]

    def folder(self, cache: Path) -> Path:
        return cache / (self.name or self.suite)


RELEASES = {
    release.version: release
    for release in (
        Release("22.11", "bookworm", "23.0"),
        Release("24.11", "trixie", "25.0"),
        Release("25.11", "forky", "26.0"),
    )
}
OVS = Release(
    "22.11", "bookworm", "23.0", ("openvswitch-switch-dpdk", "openvswitch-common"), "ovs-bookworm"
)
DRIVERS = ("bus_pci", "mempool_ring", "net_iavf")
# The release that benches compare with, where none is installed, and what it has to have.
PEERS = RELEASES["22.11"]
PEER_DRIVERS = (*DRIVERS, "bus_vdev", "net_memif", "net_vhost", "net_virtio")


class Missing(Exception):
    """No testpmd, or not all drivers: what to do about it, in one line."""


@dataclass(frozen=True)
class Dpdk:
    """An unpacked DPDK."""

    release: Release
    root: Path

    def command(self, program: str) -> list[str]:
        """The words that run a program, named by its path; its own arguments follow."""
        loaders = [self.root / "usr/lib64", self.root / "lib64"]
        loader = next(path for path in loaders if (path / "ld-linux-x86-64.so.2").exists())
        libraries = [self.root / place / "x86_64-linux-gnu" for place in ("usr/lib", "lib")]
        return [
            str(loader / "ld-linux-x86-64.so.2"),
            "--library-path",
            ":".join(map(str, libraries)),
            str(self.root / program),
        ]

    def drivers(self, names: Iterable[str] = DRIVERS) -> list[str]:
        """EAL's options for the drivers wanted; its own folder has all, which takes long."""
        folder = self.root / f"usr/lib/x86_64-linux-gnu/dpdk/pmds-{self.release.abi}"
        words = []
        for name in names:
            words += ["-d", str(folder / f"librte_{name}.so.{self.release.abi}")]
        return words


@dataclass(frozen=True)
class Testpmd:
    """How a bench runs it: the words before its own arguments, and those that load its drivers."""

    command: tuple[str, ...]
    version: str
    options: tuple[str, ...] = ()


def cache_folder(wanted: Path | None = None) -> Path:
    """Where to unpack DPDK: `wanted`, else what the environment says, else below this project,
    unless that lies below a folder that everybody may write to, such as /tmp.  EAL loads no driver
    from there."""
    wanted = (wanted or Path(os.environ.get("EMUIAVF_DPDK_CACHE") or CACHE)).resolve()
    for folder in wanted.parents:
        if folder.exists() and folder.stat().st_mode & stat.S_IWOTH:
            return Path.home() / ".cache" / "emuiavf" / "dpdk"
    return wanted


def is_fetched(cache: Path, release: Release) -> bool:
    manifest = release.folder(cache) / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text())["form"] == FORM


def fetched(cache: Path, release: Release) -> Dpdk:
    """A release in the cache, fetched where it is not there yet.  debian.Failed when it cannot."""
    top = release.folder(cache)
    top.mkdir(parents=True, exist_ok=True)
    with open(top / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_fetched(cache, release):
            manifest = {"form": FORM, "packages": _unpack(top, release)}
            (top / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return Dpdk(release, top / "root")


def find(*, fetch: bool = True, cache: Path | None = None) -> Testpmd:
    """The installed one if it has all PEER_DRIVERS, else that of PEERS in the cache, fetched when
    it is not there.  Missing when there is none."""
    installed = shutil.which("dpdk-testpmd")
    if installed is not None and _has_drivers(Path("/usr/lib")):
        return _described((installed,))
    cache = cache_folder(cache)
    if not is_fetched(cache, PEERS):
        if not fetch:
            raise Missing("no dpdk-testpmd (Debian: apt-get install dpdk-dev)")
        if shutil.which("apt-get") is None:
            raise Missing("no dpdk-testpmd, and no apt to fetch it with")
    try:
        found = fetched(cache, PEERS)
    except debian.Failed as reason:
        raise Missing(f"no dpdk-testpmd: {reason}") from None
    if not _has_drivers(found.root / "usr/lib"):
        raise Missing(f"{found.root}: not all of {', '.join(PEER_DRIVERS)}; remove its folder")
    return _described(found.command("usr/bin/dpdk-testpmd"), found.drivers(PEER_DRIVERS))


def _has_drivers(top: Path) -> bool:
    return all(any(top.glob(f"*/dpdk/pmds-*/librte_{name}.so.[0-9][0-9]")) for name in PEER_DRIVERS)


def _described(command: Iterable[str], options: Iterable[str] = ()) -> Testpmd:
    """With its version; Missing when it does not even start."""
    words = (*command, *options, "-v", "-h")
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    version = re.search(r"DPDK [\d.]+", said.stdout + said.stderr)
    if version is None:
        raise Missing(f"{' '.join(command)}: {(said.stderr or said.stdout).strip()[-200:]}")
    return Testpmd(tuple(command), version[0], tuple(options))


def _unpack(top: Path, release: Release) -> list[dict[str, object]]:
    apt = debian.Apt(str(top))
    apt.configure([release.suite])
    apt.update()
    debs = apt.closure(release.packages, release.suite)
    shutil.rmtree(top / "root", ignore_errors=True)
    debian.unpack(debs, str(top / "root"))
    packages = [debian.record(deb) for deb in debs]
    apt.tidy()
    return packages
