"""Several VFs of one guest connected to each other: pairs, and a router between two of them."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet
from scapy.utils import rdpcap

from tests.vm.harness import measure
from tests.vm.harness.backend import BackendProcess, vfio_user_device
from tests.vm.harness.guest import Guest

# Sender - router in, router out - receiver: each VF with the namespace it lives in.
VFS = (("snd", 0), ("rtr", 0), ("rtr", 1), ("rcv", 1))
FRAMES = 300


def mac(index: int) -> str:
    return f"52:54:00:00:01:{index:02x}"


@pytest.fixture(scope="module")
def vm(kernel: str, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """The four VFs as if{i} in their namespaces; wire w carries 10.8w.0.0/24 and fd8w::/64."""
    folder = tmp_path_factory.mktemp(f"pairs-{kernel}")
    arguments, qemu = [], []
    for index in range(len(VFS)):
        path = folder / f"vf{index}.sock"
        arguments += ["--vdev", f"emu_iavf{index},path={path},mac={mac(index)},queues=2"]
        qemu += vfio_user_device(path, addr=f"{index + 4}.0")
    for left, right in ((0, 1), (2, 3)):
        arguments += ["--connect", f"emu_iavf{left},emu_iavf{right}"]
    with (
        BackendProcess(arguments, folder / "backend.log") as backend,
        Guest(cache, kernel, qemu, load=["iavf"], memory=768, log=folder / "console.log") as guest,
    ):
        for name in ("snd", "rtr", "rcv"):
            guest.check(f"ip netns add {name} && ip -n {name} link set lo up")
        for index, (name, wire) in enumerate(VFS):
            ifname = measure.interface(guest, mac=mac(index))
            last = index + 1
            guest.check(
                f"ip link set {ifname} netns {name} name if{index} && "
                f"ip -n {name} addr add 10.8{wire}.0.{last}/24 dev if{index} && "
                f"ip -n {name} link set if{index} up && "
                f"ip -n {name} addr add fd8{wire}::{last}/64 dev if{index} nodad"
            )
            guest.wait(f"ip netns exec {name} grep -q 1 /sys/class/net/if{index}/carrier")
        guest.check(
            "ip netns exec rtr sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; "
            "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'; "
            "ip -n snd route add default via 10.80.0.2; ip -n rcv route add default via 10.81.0.3;"
            "ip -n snd route add default via fd80::2; ip -n rcv route add default via fd81::3"
        )
        yield guest
        assert backend.alive()
    assert "Traceback" not in backend.said()


IN_SENDER = "ip netns exec snd"
NEAR, FAR, FAR6 = "10.80.0.2", "10.81.0.4", "fd81::4"


@pytest.fixture(scope="module")
def servers(vm: Guest) -> None:
    for name in ("rtr", "rcv"):
        vm.check(f"ip netns exec {name} iperf3 -s -D")
        vm.wait(f"ip netns exec {name} ss -ltn | grep -q :5201")


def no_checksum_errors(vm: Guest) -> None:
    for name in ("snd", "rtr", "rcv"):
        assert measure.checksum_errors(measure.guest_nstat(vm, f"ip netns exec {name}")) == {}


@pytest.mark.parametrize("size", [64, 1472])
def test_no_ping_is_lost_between_two_vfs(vm: Guest, size: int) -> None:
    # The first by itself, and not asked again: of those that come every 2 ms Linux drops, before
    # any device has them, what waits for ARP beyond a few hundred.
    for count in (1, 500):
        result = measure.ping(vm, NEAR, count, size, prefix=IN_SENDER)
        assert result.clean, result


@pytest.mark.parametrize("direction", ["", "-R"], ids=["first to second", "second to first"])
def test_iperf_between_two_vfs(vm: Guest, servers: None, direction: str) -> None:
    end = measure.iperf(vm, NEAR, direction, seconds=2, prefix=IN_SENDER)
    assert measure.mbits(end) > 1
    no_checksum_errors(vm)


@pytest.mark.parametrize("target", [FAR, FAR6])
def test_no_ping_is_lost_through_the_router(vm: Guest, target: str) -> None:
    result = measure.ping(vm, target, 200, 1000, prefix=IN_SENDER)
    assert result.clean, result


@pytest.mark.parametrize("offload", ["on", "off"])
def test_vlan_interfaces_on_both_ends(vm: Guest, offload: str) -> None:
    """Tags put and taken by the device or by the kernel; a VLAN that is not ours stays away."""
    for name, index, last in (("snd", 0, 1), ("rtr", 1, 2)):
        inside = f"ip netns exec {name}"
        vm.check(f"{inside} ethtool -K if{index} rxvlan {offload} txvlan {offload}")
        for vlan in (5, 6):
            vm.check(
                f"ip -n {name} link add link if{index} name vlan{vlan} type vlan id {vlan} && "
                f"ip -n {name} addr add 10.9{vlan}.0.{last}/24 dev vlan{vlan} && "
                f"ip -n {name} link set vlan{vlan} up"
            )
    for vlan in (5, 6):
        vm.wait(f"{IN_SENDER} ping -n -q -c 1 -W 0.2 10.9{vlan}.0.2", 3)
        result = measure.ping(vm, f"10.9{vlan}.0.2", 100, 1000, prefix=IN_SENDER)
        assert result.clean, result
    vm.check("ip -n rtr link del vlan6")
    assert measure.ping(vm, "10.96.0.2", 3, prefix=IN_SENDER, options="-W 0.2").received == 0
    vm.check("ip -n rtr link del vlan5; ip -n snd link del vlan5; ip -n snd link del vlan6")
    assert measure.ping(vm, NEAR, 100, prefix=IN_SENDER).clean


def wrong_checksums(packet: Packet) -> list[str]:
    """The layers of a frame whose checksum is not what scapy computes."""
    rebuilt = packet.__class__(bytes(packet))
    for layer in (IP, TCP):
        if layer in rebuilt:
            del rebuilt[layer].chksum
    rebuilt = packet.__class__(bytes(rebuilt))
    return [
        layer.__name__
        for layer in (IP, TCP)
        if layer in packet and packet[layer].chksum != rebuilt[layer].chksum
    ]


def capture(vm: Guest, name: str, ifname: str, work: str) -> list[Packet]:
    """The first TCP frames with data that arrive on an interface while `work` runs."""
    vm.check(
        f"ip netns exec {name} tcpdump -Z root -Q in -U -s 0 -c {FRAMES} -w /tmp/{ifname}.pcap "
        f"-i {ifname} 'tcp and greater 200' > /tmp/{ifname}.log 2>&1 & echo $! > /tmp/dump"
    )
    vm.wait(f"grep -q listening /tmp/{ifname}.log")
    vm.check(work, 60)
    vm.wait("! kill -0 $(cat /tmp/dump) 2>/dev/null")
    text = vm.check(f"base64 /tmp/{ifname}.pcap; rm /tmp/{ifname}.pcap", 60)
    return list(rdpcap(io.BytesIO(base64.b64decode(text))))


@pytest.mark.parametrize("target", [FAR, FAR6])
@pytest.mark.parametrize(
    ("name", "ifname"), [("rtr", "if1"), ("rcv", "if3")], ids=["into the router", "at the receiver"]
)
def test_every_forwarded_frame_has_right_checksums(
    vm: Guest, servers: None, target: str, name: str, ifname: str
) -> None:
    vm.check(f"ip netns exec {name} ethtool -K {ifname} gro off lro off; true")
    work = f"{IN_SENDER} iperf3 -c {target} -t 1 > /dev/null"
    packets = capture(vm, name, ifname, work)
    assert len(packets) == FRAMES
    assert sum(IP in packet or IPv6 in packet for packet in packets) == FRAMES
    assert [wrong for packet in packets if (wrong := wrong_checksums(packet))] == []
    assert all(len(packet) <= 1514 for packet in packets)
    vm.check(f"ip netns exec {name} ethtool -K {ifname} gro on")
    no_checksum_errors(vm)


def test_nothing_was_complained_about(vm: Guest) -> None:
    assert measure.complaints(vm) == []
