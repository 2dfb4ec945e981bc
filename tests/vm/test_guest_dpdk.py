"""DPDK in a guest: testpmd polls a VF on vfio-pci, behind an IOMMU that QEMU emulates, and on uio.

Debian's kernels have VFIO without an IOMMU switched off.  uio_pci_generic has no interrupts for
a VF, and net_iavf has its mailbox polled only where WB_ON_ITR is not offered.  At the other end of
each wire is our own driver.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.dpdk import RELEASES, Dpdk, cache_folder, fetched
from tests.dpdk.tester import Tester, mixed_frames
from tests.vm.harness import testpmd
from tests.vm.harness.backend import ROOT, BackendProcess, vfio_user_device
from tests.vm.harness.guest import Guest
from tests.vm.harness.testpmd import GuestTestpmd

KERNELS = ("6.12",)
# The kernel driver that has it, what the device's options add, and its place on the guest's bus.
WAYS = {"vfio-pci": ("", 4), "uio_pci_generic": (",caps=-wb_on_itr", 5)}
PEERS = 100
HUGEPAGES = 64


@pytest.fixture(scope="module")
def dpdk() -> Dpdk:
    """Of the suite that the guest's other programs are of."""
    return fetched(cache_folder(), RELEASES["24.11"])


class Bench:
    """The guest, and the devices its testpmd is wired to."""

    def __init__(self, vm: Guest, dpdk: Dpdk, backend: BackendProcess, folder: Path) -> None:
        self._vm, self._dpdk, self._backend, self._folder = vm, dpdk, backend, folder

    def counters(self, way: str) -> dict[str, int]:
        return self._backend.stats(f"emu_iavf{WAYS[way][1]}")

    @contextmanager
    def running(self, way: str) -> Iterator[tuple[Tester, GuestTestpmd]]:
        """Our driver at its end of the wire, and testpmd of the guest at the other."""
        place = WAYS[way][1]
        function = f"0000:00:{place:02x}.0"
        self._vm.check(
            f"echo {way} > /sys/bus/pci/devices/{function}/driver_override && "
            f"echo {function} > /sys/bus/pci/drivers_probe && "
            f"[ -e /sys/bus/pci/drivers/{way}/{function} ]"
        )
        with (
            Tester(self._folder / f"peer{place}.sock") as tester,
            GuestTestpmd(self._vm, self._dpdk, [function]) as program,
        ):
            yield tester, program


@pytest.fixture(scope="module")
def bench(
    kernel: str, cache: Path, dpdk: Dpdk, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp(f"dpdk-{kernel}")
    initramfs = folder / "initramfs"
    subprocess.run(
        [
            *(sys.executable, "-m", "tests.vm.harness.initramfs", str(cache), kernel, "--quiet"),
            *("--output", str(initramfs), "--programs", testpmd.PROGRAM, *testpmd.needed(dpdk)),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    arguments = []
    qemu = ["-device", "intel-iommu,caching-mode=on"]
    for options, place in WAYS.values():
        path = folder / f"vf{place}.sock"
        arguments += ["--vdev", f"emu_iavf{place},path={path}{options}"]
        peer = folder / f"peer{place}.sock"
        arguments += ["--vdev", f"emu_iavf{PEERS + place},path={peer}"]
        arguments += ["--connect", f"emu_iavf{place},emu_iavf{PEERS + place}"]
        qemu += vfio_user_device(path, addr=f"{place}.0")
    with (
        BackendProcess(arguments, folder / "backend.log") as backend,
        Guest(
            cache,
            kernel,
            qemu,
            load=["vfio_iommu_type1", *WAYS],
            append="intel_iommu=on iommu=pt",
            log=folder / "console.log",
            initramfs=initramfs,
        ) as vm,
    ):
        vm.check(f"echo {HUGEPAGES} > /proc/sys/vm/nr_hugepages")
        yield Bench(vm, dpdk, backend, folder)
        assert backend.alive()
    assert "Traceback" not in backend.said()


@pytest.mark.parametrize("way", WAYS)
def test_frames_of_all_lengths_there_and_back(bench: Bench, way: str) -> None:
    frames = mixed_frames(600)
    with bench.running(way) as (tester, program):
        program("show port info 0")
        program("start")
        before = bench.counters(way)
        assert [frame.data for frame in tester.exchange(frames)] == frames
        after = bench.counters(way)
        program("show port stats 0")
        said = program.quit()
    assert "Link status: up" in said
    for name in ("rx-0.packets", "tx-0.packets"):
        assert after[name] - before[name] == len(frames)
    if way == "uio_pci_generic":
        assert after["rx-0.interrupts"] == 0
    assert re.search(rf"RX-packets: {len(frames)} .*TX-packets: {len(frames)} ", said, re.DOTALL)
    assert "Bye..." in said
