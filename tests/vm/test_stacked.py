"""What Linux puts on top of VFs: namespaces, bonds, a bridge, XDP, macvlan; one guest for all.

VFs 0 and 1 are on a switch with a TAP of the host, 2 and 3 on one wire, 4 and 5 on another.  Each
test takes the interfaces it wants, if0 to if5, into namespaces of the guest, and gives them back.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm.harness import measure, xdp
from tests.vm.harness.backend import BackendProcess, control, vfio_user_device
from tests.vm.harness.guest import Guest
from tests.vm.harness.netns import Namespace
from tests.vm.harness.rig import TAP

KERNELS = ("6.12",)
DEVICES = 6
HOST, LEFT, RIGHT = "10.77.0.1", "10.77.0.2", "10.77.0.3"
# The switch, and the two wires.
CONNECTED = ("emu_iavf0,emu_iavf1,tap0", "emu_iavf2,emu_iavf3", "emu_iavf4,emu_iavf5")
AGAIN_S = 15.0
# The six bits of a port's state that both ends are to have set (IEEE 802.1AX, 6.4.2.3).
ALL_OF_LACP = 0x3F
# A bond says so when it comes up, before the first answer can be there.
EARLY = (r"No 802\.3ad response from the link partner",)


def mac(index: int) -> str:
    return f"52:54:00:00:05:{index:02x}"


class Net:
    """The guest with its VFs, and the host's end of the switch."""

    def __init__(self, vm: Guest, host: Namespace, socket: Path) -> None:
        self.vm, self.host = vm, host
        self._socket = socket

    def emuiavf(self, verb: str, *args: str) -> None:
        control(self._socket, verb, *args)

    @contextmanager
    def inside(self, name: str, *indices: int) -> Iterator[str]:
        """These interfaces in a namespace; yields the words that run a command there."""
        self.vm.check(f"ip netns add {name} && ip -n {name} link set lo up")
        for index in indices:
            self.vm.check(f"ip link set if{index} netns {name}")
        try:
            yield f"ip netns exec {name}"
        finally:
            for index in indices:
                self.vm.run(f"ip -n {name} link set if{index} nomaster")
                self.vm.check(f"ip -n {name} link set if{index} down netns 1")
                self.vm.check(f"ip addr flush dev if{index}")
            self.vm.check(f"ip netns pids {name} | xargs -r kill; ip netns del {name}")

    def sent(self, at: str, index: int) -> int:
        """Frames that a VF has sent, as its rings count: iavf's statistics are seconds old."""
        found = measure.ethtool_stats(self.vm.check(f"{at} ethtool -S if{index}"))
        return found["tx-0.packets"]

    def up(self, at: str, ifname: str, address: str = "") -> None:
        """Returns when it has a carrier."""
        add = f"ip addr add {address}/24 dev {ifname} && " if address else ""
        self.vm.check(f"{at} sh -c '{add}ip link set {ifname} up'")
        self.vm.wait(f"{at} grep -q 1 /sys/class/net/{ifname}/carrier")

    def wait_offload(self, at: str, ifname: str, state: str) -> None:
        """Until the driver offers VLAN offloads, or none, and has a carrier."""
        self.vm.wait(f"{at} ethtool -k {ifname} | grep -q '^rx-vlan-offload: {state}'", AGAIN_S)
        self.vm.wait(f"{at} grep -q 1 /sys/class/net/{ifname}/carrier", AGAIN_S)

    def wait_ping(self, at: str, address: str) -> None:
        self.vm.wait(f"{at} ping -n -q -c 1 -W 0.2 {address}", AGAIN_S)

    def serve(self, at: str) -> None:
        """iperf3 listens there, until its namespace goes."""
        self.vm.check(f"{at} iperf3 -s -D")
        self.vm.wait(f"{at} ss -ltn | grep -q :5201")

    def assert_pings(self, at: str, address: str) -> None:
        self.wait_ping(at, address)
        result = measure.ping(self.vm, address, 100, 1000, prefix=at)
        assert result.clean, result

    def assert_works(self, at: str, address: str) -> None:
        """Nothing is lost or comes twice, and TCP runs both ways without a bad checksum."""
        self.assert_pings(at, address)
        self.assert_streams(at, address)

    def assert_streams(self, at: str, address: str, options: str = "") -> None:
        for way in ("", "-R"):
            end = measure.iperf(self.vm, address, f"{way} {options}", size="16M", prefix=at)
            assert (
                end["sum_received"]["bytes"] > 8e6
            )  # what is on its way at the end does not count
        assert measure.checksum_errors(measure.guest_nstat(self.vm, at)) == {}


@pytest.fixture(scope="module")
def net(
    kernel: str, cache: Path, host: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp(f"stacked-{kernel}")
    socket = folder / "control"
    arguments = ["--control", str(socket), "--port", f"tap0,type=tap,ifname={TAP}"]
    qemu = []
    for index in range(DEVICES):
        path = folder / f"vf{index}.sock"
        arguments += ["--vdev", f"emu_iavf{index},path={path},mac={mac(index)},queues=1"]
        qemu += vfio_user_device(path, addr=f"{index + 4}.0")
    for names in CONNECTED:
        arguments += ["--connect", names]
    with (
        BackendProcess(arguments, folder / "backend.log", host) as backend,
        Guest(cache, kernel, qemu, load=["iavf"], log=folder / "console.log") as vm,
        measure.iperf_server(host, cache),
    ):
        host.address(TAP, f"{HOST}/24")
        for index in range(DEVICES):
            vm.check(f"ip link set {measure.interface(vm, mac=mac(index))} name if{index}")
        yield Net(vm, host, socket)
        assert measure.complaints(vm, EARLY) == []
        assert backend.alive()
    assert "Traceback" not in backend.said()


def test_two_vfs_in_namespaces(net: Net) -> None:
    with net.inside("left", 0) as left, net.inside("right", 1) as right:
        net.up(left, "if0", LEFT)
        net.up(right, "if1", RIGHT)
        net.serve(right)
        net.assert_works(left, RIGHT)
        net.assert_works(right, HOST)


def test_bond_fails_over(net: Net) -> None:
    active = "cat /sys/class/net/bond0/bonding/active_slave"
    with net.inside("left", 0, 1) as left:
        net.vm.check(f"{left} ip link add bond0 type bond mode active-backup miimon 50")
        net.vm.check(f"{left} ip link set if0 master bond0; {left} ip link set if1 master bond0")
        net.vm.check(f"{left} ip link set bond0 type bond primary if0")
        net.up(left, "bond0", LEFT)
        net.vm.wait(f"[ $({left} {active}) = if0 ]")
        net.assert_pings(left, HOST)
        net.emuiavf("set", "vf0", "link-state", "disable")
        try:
            net.vm.wait(f"[ $({left} {active}) = if1 ]", AGAIN_S)
            net.assert_works(left, HOST)
        finally:
            net.emuiavf("set", "vf0", "link-state", "auto")
        net.vm.wait(f"[ $({left} {active}) = if0 ]", AGAIN_S)
        net.assert_pings(left, HOST)
        net.emuiavf("inject", "vf0", "link-down", "--seconds", "3")
        net.vm.wait(f"[ $({left} {active}) = if1 ]", AGAIN_S)
        net.assert_pings(left, HOST)
        net.vm.wait(f"[ $({left} {active}) = if0 ]", AGAIN_S)
        net.assert_pings(left, HOST)


def test_aggregated_links(net: Net) -> None:
    """802.3ad: both ends find each other by LACP, and a link that goes takes nothing with it."""
    ports = "cat /sys/class/net/bond0/bonding/ad_num_ports"
    options = "mode 802.3ad miimon 50 lacp_rate fast xmit_hash_policy layer3+4"
    with net.inside("left", 2, 4) as left, net.inside("right", 3, 5) as right:

        def aggregated() -> None:
            """Both ends collect and distribute on both links, and know that of each other."""
            for at, index in ((left, 2), (left, 4), (right, 3), (right, 5)):
                for end in ("actor", "partner"):
                    state = f"/sys/class/net/if{index}/bonding_slave/ad_{end}_oper_port_state"
                    net.vm.wait(f"[ $({at} cat {state}) = {ALL_OF_LACP} ]", AGAIN_S)

        for at, first, second in ((left, 2, 4), (right, 3, 5)):
            net.vm.check(
                f"{at} ip link add bond0 type bond {options} && "
                f"{at} ip link set if{first} master bond0; "
                f"{at} ip link set if{second} master bond0"
            )
        for at, address in ((left, LEFT), (right, RIGHT)):
            net.up(at, "bond0", address)
        aggregated()
        net.serve(right)
        net.assert_pings(left, RIGHT)
        before = [net.sent(left, index) for index in (2, 4)]
        # So many that chance does not send all of them over one link.
        net.assert_streams(left, RIGHT, "-P 24")
        after = [net.sent(left, index) for index in (2, 4)]
        assert all(now > then + 100 for now, then in zip(after, before, strict=True))
        cut = ("vf2", "vf3")
        for vf in cut:
            net.emuiavf("set", vf, "link-state", "disable")
        try:
            for at in (left, right):
                net.vm.wait(f"[ $({at} {ports}) = 1 ]", AGAIN_S)
            net.assert_works(left, RIGHT)
        finally:
            for vf in cut:
                net.emuiavf("set", vf, "link-state", "auto")
        aggregated()
        net.assert_pings(left, RIGHT)


def test_bridge(net: Net) -> None:
    """From a VF at a wire's end through a bridge of two others to the host and back."""
    with net.inside("middle", 1, 2) as middle, net.inside("far", 3) as far:
        net.vm.check(
            f"{middle} ip link add br0 type bridge && "
            f"{middle} ip link set if1 master br0 && {middle} ip link set if2 master br0"
        )
        for ifname in ("if1", "if2", "br0"):
            net.up(middle, ifname)
        net.up(far, "if3", RIGHT)
        net.assert_works(far, HOST)
        learned = net.vm.check(f"{middle} bridge fdb show br br0")
        assert f"{mac(3)} dev if2" in learned


def test_generic_xdp_drops_and_passes(net: Net) -> None:
    text = base64.b64encode(xdp.drop_icmp()).decode()
    net.vm.check(f"echo {text} | base64 -d > /tmp/xdp.o")
    attach = f"ip link set if0 xdpgeneric object /tmp/xdp.o section {xdp.SECTION}"
    with net.inside("left", 0) as left:
        net.up(left, "if0", LEFT)
        net.assert_pings(left, HOST)
        net.vm.check(f"{left} {attach}")
        lost = measure.ping(net.vm, HOST, 20, prefix=left, options="-W 0.2")
        assert lost.received == 0
        net.assert_streams(left, HOST)
        net.vm.check(f"{left} ip link set if0 xdpgeneric off")
        net.assert_pings(left, HOST)


def test_macvlan(net: Net) -> None:
    """Two more addresses on one VF, in namespaces of their own, beside the VF's."""
    with net.inside("left", 0) as left, net.inside("one") as one, net.inside("two") as two:
        net.up(left, "if0", LEFT)
        for name in ("one", "two"):
            net.vm.check(
                f"ip -n left link add mac{name} link if0 type macvlan mode bridge && "
                f"ip -n left link set mac{name} netns {name}"
            )
        net.up(one, "macone", "10.77.0.4")
        net.up(two, "mactwo", "10.77.0.5")
        net.assert_works(one, HOST)
        net.assert_pings(two, HOST)
        net.assert_pings(left, HOST)
        net.serve(two)
        net.assert_works(one, "10.77.0.5")


def test_port_vlans_part_and_join(net: Net) -> None:
    """The drivers know nothing of their VLANs: those in one meet, and nobody else."""

    def unreachable(at: str, address: str) -> bool:
        command = f"{at} ping -n -q -c 3 -i 0.1 -W 0.3 {address}"
        return " 0 received" in net.vm.run(command)[1]

    with net.inside("left", 0) as left, net.inside("right", 1) as right:
        net.up(left, "if0", LEFT)
        net.up(right, "if1", RIGHT)
        net.assert_pings(left, RIGHT)
        try:
            net.emuiavf("set", "vf0", "vlan", "5")
            net.emuiavf("set", "vf1", "vlan", "5")
            for at, ifname in ((left, "if0"), (right, "if1")):
                net.wait_offload(at, ifname, "off")
            net.assert_pings(left, RIGHT)
            net.serve(right)
            net.assert_streams(left, RIGHT)
            assert unreachable(left, HOST)
            net.vm.check("dmesg -c > /dev/null")
            net.emuiavf("set", "vf1", "vlan", "6")
            net.vm.wait("dmesg | grep -q 'Reset indication received'", AGAIN_S)
            net.vm.wait(f"{right} grep -q 1 /sys/class/net/if1/carrier", AGAIN_S)
            assert unreachable(left, RIGHT)
        finally:
            for vf in ("vf0", "vf1"):
                net.emuiavf("set", vf, "vlan", "0")
        for at, ifname in ((left, "if0"), (right, "if1")):
            net.wait_offload(at, ifname, "on")
        net.assert_pings(left, RIGHT)
        net.assert_pings(left, HOST)
