"""iPXE boots a guest through our VF: a driver of its own, which polls and takes no interrupt.

QEMU starts Debian's unmodified iPXE, by BIOS or UEFI.  Whatever it needs more comes over the VF, by
TFTP or HTTP: its lease, the name of a script, the script, a kernel and its initramfs.  Then that
kernel's iavf takes over.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.vm.harness import asked, measure
from tests.vm.harness.backend import ROOT, BackendProcess, vfio_user_device
from tests.vm.harness.fetch import IPXE_SUITES
from tests.vm.harness.guest import Guest, kernel_arguments
from tests.vm.harness.netboot import NetBoot
from tests.vm.harness.netns import Namespace
from tests.vm.harness.rig import DEVICE, MAC, TAP, Subnet

NET = Subnet()
HTTP = f"http://{NET.host}/"


@dataclass(frozen=True)
class Way:
    """Which iPXE, under what firmware, and where the script and the kernel come from."""

    suite: str
    uefi: bool
    tftp: bool

    def __str__(self) -> str:
        return "-".join(
            (self.suite, "uefi" if self.uefi else "bios", "tftp" if self.tftp else "http")
        )


WAYS = tuple(
    Way(suite, uefi=suite != IPXE_SUITES[0], tftp=suite == IPXE_SUITES[0]) for suite in IPXE_SUITES
)


@dataclass
class Booted:
    """A guest that came from the network, and what was seen meanwhile."""

    way: Way
    vm: Guest
    backend: BackendProcess
    console: str
    served: list[dict[str, Any]]
    sizes: dict[str, int]
    counted: dict[str, int]


@pytest.fixture(scope="module")
def ipxe(cache: Path) -> Path:
    fetch = [sys.executable, "-m", "tests.vm.harness.fetch", str(cache)]
    subprocess.run([*fetch, "--kernels", "", "--ipxe", "--tidy"], cwd=ROOT, check=True)
    return cache / "ipxe"


@pytest.fixture(scope="module", params=WAYS, ids=str)
def booted(
    request: pytest.FixtureRequest,
    cache: Path,
    ipxe: Path,
    host: Namespace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Booted]:
    way: Way = request.param
    folder = tmp_path_factory.mktemp(f"ipxe-{way}")
    # Which kernel is loaded makes no difference to iPXE.
    kernel = (request.config.getoption("--kernels") or "6.12").split(",")[-1]
    script = folder / "boot.ipxe"
    script.write_text(
        f"#!ipxe\nkernel vmlinuz initrd=initramfs {kernel_arguments(['iavf'])}\n"
        f"initrd {HTTP}initramfs\nifstat\nboot\n"
    )
    files = {
        "boot.ipxe": script,
        "vmlinuz": cache / "kernels" / kernel / "vmlinuz",
        "initramfs": cache / "initramfs" / f"{kernel}.cpio",
    }
    path = folder / "vf0.sock"
    backend = BackendProcess(
        [
            *("--vdev", f"{DEVICE},path={path},mac={MAC},queues=2"),
            *("--port", f"tap0,type=tap,ifname={TAP}"),
            *("--connect", f"{DEVICE},tap0"),
        ],
        folder / "backend.log",
        host,
    )
    console = folder / "console.log"

    def on_event(event: dict[str, Any]) -> None:
        """The last file is there: the next driver that asks is Linux's."""
        if event.get("path", "").endswith("initramfs"):
            asked.keep(backend)

    with backend:
        host.address(TAP, f"{NET.host}/24")
        boot_file = "boot.ipxe" if way.tftp else HTTP + "boot.ipxe"
        servers = NetBoot(host, TAP, f"{NET.host}/24", NET.guest, boot_file, files, on_event)
        with servers:
            try:
                vm = Guest(
                    cache,
                    kernel,
                    vfio_user_device(path, addr="5.0"),
                    firmware=ipxe / way.suite / ("ipxe-amd64.efi" if way.uefi else "ipxe.lkrn"),
                    uefi=cache / "uefi" if way.uefi else None,
                    log=console,
                    boot_timeout=180,
                )
            except BaseException:
                print(console.read_text(errors="replace")[-4000:])
                print(servers.events())
                raise
            counted = backend.stats(DEVICE)
            served = servers.events()
        with vm:
            yield Booted(
                way,
                vm,
                backend,
                re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.read_text(errors="replace")),
                served,
                {name: file.stat().st_size for name, file in files.items()},
                counted,
            )
        assert backend.alive()
    assert "Traceback" not in backend.said()


def test_its_iavf_driver_took_the_vf(booted: Booted) -> None:
    assert f"net0: {MAC} using iavf on 0000:00:05.0 (Ethernet) [open]" in booted.console


def test_the_lease_is_ours(booted: Booted) -> None:
    assert f"net0: {NET.guest}/255.255.255.0 gw {NET.host}" in booted.console
    leases = [event for event in booted.served if event["event"] == "dhcp"]
    assert [event["type"] for event in leases][-1] == "ack"
    assert {event["mac"] for event in leases} == {MAC}


def test_script_kernel_and_initramfs_came_over_the_vf(booted: Booted) -> None:
    sent = [event for event in booted.served if event["event"] in ("http", "tftp")]
    assert [(event["path"].lstrip("/"), event["bytes"]) for event in sent] == list(
        booted.sizes.items()
    )
    first = "tftp" if booted.way.tftp else "http"
    assert [event["event"] for event in sent] == [first, first, "http"]
    assert sum(booted.sizes.values()) < booted.counted["rx_bytes"]


def test_no_frame_was_bad(booted: Booted) -> None:
    """As iPXE counts: it looks at the error bit of every descriptor."""
    shown = re.findall(r"\[Link:up, TX:(\d+) TXE:(\d+) RX:(\d+) RXE:(\d+)\]", booted.console)
    assert len(shown) == 2, booted.console[:3000]  # when it opened the VF, and by our script
    sent, bad_sent, received, bad_received = map(int, shown[-1])
    assert (bad_sent, bad_received) == (0, 0)
    assert sent > 0
    assert received * 1500 > sum(booted.sizes.values())


def test_the_kernel_came_up_with_our_initramfs(booted: Booted) -> None:
    assert re.search(r"Command line: .*initrd=initramfs", booted.console)
    # Under UEFI the kernel's name comes first.
    assert "initrd=initramfs" in booted.vm.check("cat /proc/cmdline").split()[:2]


def test_linux_takes_the_vf_over(booted: Booted) -> None:
    """iPXE resets it twice on its way out: by a message, then by a function-level reset."""
    vm = booted.vm
    name = measure.interface(vm, driver="iavf")
    vm.check(f"ip addr add {NET.guest}/24 dev {name} && ip link set {name} up")
    vm.wait(f"[ $(cat /sys/class/net/{name}/carrier) = 1 ]")
    vm.wait(f"ping -n -q -c 1 -W 0.2 {NET.host}", 3)
    result = measure.ping(vm, NET.host, 100, 1000)
    assert result.clean, result
    assert measure.complaints(vm) == []
