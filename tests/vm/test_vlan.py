"""A Linux guest with a tag in a tag: both put and taken by the device or by the kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.harness import measure
from tests.vm.harness.backend import BackendProcess, vfio_user_device
from tests.vm.harness.guest import Guest

ENDS = ("left", "right")
HERE = "ip netns exec left"
# Features of the outer tag: off both ways, of TPID 0x8100, of 0x88a8; it has one at a time.
NONE = "rxvlan off txvlan off rx-vlan-stag-hw-parse off tx-vlan-stag-hw-insert off"
C_TAG = "rx-vlan-stag-hw-parse off tx-vlan-stag-hw-insert off rxvlan on txvlan on"
S_TAG = "rxvlan off txvlan off rx-vlan-stag-hw-parse on tx-vlan-stag-hw-insert on"


def mac(index: int) -> str:
    return f"52:54:00:00:03:{index:02x}"


@pytest.fixture(scope="module")
def vm(kernel: str, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """Two VFs wired to each other, eth0 of two namespaces."""
    folder = tmp_path_factory.mktemp(f"vlan-{kernel}")
    arguments, qemu = ["--connect", "emu_iavf0,emu_iavf1"], []
    for index in (0, 1):
        path = folder / f"vf{index}.sock"
        arguments += ["--vdev", f"emu_iavf{index},path={path},mac={mac(index)},queues=1"]
        qemu += vfio_user_device(path, addr=f"{index + 4}.0")
    with (
        BackendProcess(arguments, folder / "backend.log") as backend,
        Guest(cache, kernel, qemu, load=["iavf"], memory=512, log=folder / "console.log") as guest,
    ):
        for index, name in enumerate(ENDS):
            ifname = measure.interface(guest, mac=mac(index))
            guest.check(
                f"ip netns add {name} && ip link set {ifname} netns {name} name eth0 && "
                f"ip -n {name} link set eth0 up"
            )
            guest.wait(f"ip netns exec {name} grep -q 1 /sys/class/net/eth0/carrier")
        yield guest
        assert measure.complaints(guest) == []
        assert backend.alive()
    assert "Traceback" not in backend.said()


@pytest.mark.parametrize("proto", ["802.1Q", "802.1ad"])
@pytest.mark.parametrize("features", [C_TAG, S_TAG, NONE], ids=["c-tag", "s-tag", "none"])
def test_ping_through_two_tags(vm: Guest, features: str, proto: str) -> None:
    for index, name in enumerate(ENDS):
        vm.check(f"ip netns exec {name} ethtool -K eth0 {features}")
        vm.check(
            f"ip -n {name} link add link eth0 name outer type vlan proto {proto} id 100 && "
            f"ip -n {name} link add link outer name inner type vlan id 7 && "
            f"ip -n {name} addr add 10.77.0.{index + 1}/24 dev inner && "
            f"ip -n {name} addr add 10.78.0.{index + 1}/24 dev outer && "
            f"ip -n {name} link set outer up && ip -n {name} link set inner up"
        )
    for target in ("10.77.0.2", "10.78.0.2"):
        vm.wait(f"{HERE} ping -n -q -c 1 -W 0.2 {target}", 5)
        result = measure.ping(vm, target, 50, 1000, prefix=HERE)
        assert result.clean, result
    # Without its filter the outer VLAN does not arrive any more.
    vm.check("ip -n right link del outer")
    assert measure.ping(vm, "10.77.0.2", 3, prefix=HERE, options="-W 0.2").received == 0
    vm.check("ip -n left link del outer")


def test_the_device_does_what_the_features_say(vm: Guest) -> None:
    vm.check(f"{HERE} ethtool -K eth0 {S_TAG}")
    text = vm.check(f"{HERE} ethtool -k eth0")
    for feature in ("rx-vlan-stag-hw-parse", "tx-vlan-stag-hw-insert", "rx-vlan-stag-filter"):
        assert f"{feature}: on" in text
