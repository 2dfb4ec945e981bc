"""Debian's own DPDK, unpacked below a cache folder and run with the loader and libraries there.

Fetched as the VM tests fetch QEMU; nothing is installed.
"""

import fcntl
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.vm.harness import fetch

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


RELEASES = {
    release.version: release
    for release in (Release("22.11", "bookworm", "23.0"), Release("24.11", "trixie", "25.0"))
}
OVS = Release(
    "22.11", "bookworm", "23.0", ("openvswitch-switch-dpdk", "openvswitch-common"), "ovs-bookworm"
)
DRIVERS = ("bus_pci", "mempool_ring", "net_iavf")


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

    def drivers(self) -> list[str]:
        """EAL's options for the drivers wanted; its own folder has all, which takes long."""
        folder = self.root / f"usr/lib/x86_64-linux-gnu/dpdk/pmds-{self.release.abi}"
        words = []
        for driver in DRIVERS:
            words += ["-d", str(folder / f"librte_{driver}.so.{self.release.abi}")]
        return words


def fetched(cache: Path, release: Release) -> Dpdk:
    """A release in the cache, fetched where it is not there yet."""
    top = cache / (release.name or release.suite)
    top.mkdir(parents=True, exist_ok=True)
    manifest = top / "manifest.json"
    with open(top / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not manifest.exists() or json.loads(manifest.read_text())["form"] != FORM:
            packages = _unpack(top, release)
            manifest.write_text(json.dumps({"form": FORM, "packages": packages}, indent=1))
    return Dpdk(release, top / "root")


def _unpack(top: Path, release: Release) -> list[dict[str, object]]:
    apt = fetch.Apt(str(top))
    apt.configure([release.suite])
    apt.update()
    debs = apt.closure(release.packages, release.suite)
    shutil.rmtree(top / "root", ignore_errors=True)
    fetch.unpack_root(debs, str(top / "root"))
    packages = [fetch.record(deb) for deb in debs]
    shutil.rmtree(apt.top)
    shutil.rmtree(apt.debs)
    return packages
