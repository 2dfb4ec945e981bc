"""QEMU's own NICs through the same harness: they prove it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vm.harness import measure
from tests.vm.harness.guest import Guest
from tests.vm.harness.netns import Namespace


@dataclass(frozen=True)
class Yardstick:
    model: str
    driver: str
    number: int

    @property
    def tap(self) -> str:
        return f"tap{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.{self.number}.1"


NICS = (
    Yardstick("virtio-net-pci", "virtio_net", 1),
    Yardstick("e1000e", "e1000e", 2),
    Yardstick("igb", "igb", 3),
)


@pytest.fixture(scope="module")
def vm(
    kernel: str, cache: Path, host: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    log = tmp_path_factory.mktemp(kernel) / "console.log"
    qemu = []
    for nic in NICS:
        qemu += ["-netdev", f"tap,id={nic.tap},ifname={nic.tap},script=no,downscript=no,vhost=off"]
        qemu += ["-device", f"{nic.model},netdev={nic.tap}"]
    load = ["virtio_pci", *(nic.driver for nic in NICS)]
    with Guest(cache, kernel, qemu, load=load, log=log, netns=host.name) as guest:
        for nic in NICS:
            host.address(nic.tap, f"{nic.address}/24")
            ifname = measure.interface(guest, driver=nic.driver)
            guest.check(
                f"ip addr add 10.77.{nic.number}.2/24 dev {ifname}; ip link set {ifname} up"
            )
            guest.wait(f"grep -q 1 /sys/class/net/{ifname}/carrier")
        with measure.iperf_server(host, cache):
            yield guest


@pytest.mark.parametrize("nic", NICS, ids=lambda nic: nic.model)
def test_ping_loses_nothing(vm: Guest, nic: Yardstick) -> None:
    result = measure.ping(vm, nic.address, 100)
    assert result.clean, result


@pytest.mark.parametrize("nic", NICS, ids=lambda nic: nic.model)
@pytest.mark.parametrize("direction", ["", "-R"], ids=["to host", "to guest"])
def test_iperf_runs(vm: Guest, host: Namespace, nic: Yardstick, direction: str) -> None:
    rate = measure.mbits(measure.iperf(vm, nic.address, direction, seconds=1))
    assert rate > 10
    assert measure.checksum_errors(measure.guest_nstat(vm)) == {}
    assert measure.checksum_errors(measure.host_nstat(host)) == {}
