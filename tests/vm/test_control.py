"""What the host does to a VF from outside, as the kernel's driver takes it: it always comes back.

One guest for all of it, which leaves each test with the VF as it was.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.harness import measure
from tests.vm.harness.backend import control
from tests.vm.harness.netns import Namespace
from tests.vm.harness.rig import DEVICE, MAC, TAP, Rig

OTHER_MAC = "52:54:00:12:34:99"
# Its watchdog looks every 2 s for a reset that nobody has announced, and then has it all to do.
AGAIN_S = 15.0
VLAN = 5


@pytest.fixture(scope="module")
def rig(
    kernel: str, cache: Path, host: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp(f"control-{kernel}")
    socket = ("--control", str(folder / "control"))
    with Rig(cache, kernel, host, folder, backend=socket) as ready:
        yield ready
        faults = r"BUG|Oops|Call Trace|general protection"
        assert not re.findall(faults, ready.vm.check("dmesg"))
    assert ready.backend_faults() == []


Host = Callable[..., str]


@pytest.fixture
def emuiavf(rig: Rig) -> Host:
    """A command of ours to this VF; returns what it prints."""

    def run(verb: str, *args: str) -> str:
        return control(rig.folder / "control", verb, "vf0", *args)

    return run


@pytest.fixture
def state(emuiavf: Host) -> Callable[[], dict[str, Any]]:
    def read() -> dict[str, Any]:
        (found,) = json.loads(emuiavf("show", "--json"))
        assert found["name"] == DEVICE
        return dict(found)

    return read


@pytest.fixture(autouse=True)
def works(rig: Rig) -> Iterator[Callable[[], None]]:
    """Called after a change, and at the end of each test: the VF works again in time."""

    def check() -> None:
        rig.wait_carrier(AGAIN_S)
        rig.wait_ping(AGAIN_S)

    check()
    rig.vm.check("dmesg -c > /dev/null")
    yield check
    check()
    result = rig.ping(20)
    assert result.clean, result


def wait_log(rig: Rig, text: str, before: str = "true") -> None:
    """Until the kernel has said so; `before` each look a command of the guest is run."""
    said = f"dmesg | grep -q '{text}' || {{ dmesg | tail -n 20; false; }}"
    rig.vm.wait(f"{before}; {said}", AGAIN_S)


def ask_statistics(rig: Rig) -> str:
    """A command for wait_log.  Once may not do: an iavf that waits for another answer forgets it,
    and only up to 6.x it asks every 2 s by itself."""
    return f"ethtool -S {rig.ifname} > /dev/null"


def timeouts(rig: Rig) -> int:
    """How often the Tx watchdog has fired."""
    words = rig.vm.check(f"cat /sys/class/net/{rig.ifname}/queues/tx-*/tx_timeout").split()
    return sum(map(int, words))


# set


def test_mac_is_taken_and_cannot_be_changed(rig: Rig, emuiavf: Host, works: Any) -> None:
    address = f"/sys/class/net/{rig.ifname}/address"
    for mac in (OTHER_MAC, MAC):
        emuiavf("set", "mac", mac)
        rig.vm.wait(f"[ $(cat {address}) = {mac} ]", AGAIN_S)
        rig.host.run("ip", "neigh", "flush", "dev", TAP)
        works()
    code, _ = rig.vm.run(f"ip link set {rig.ifname} address {OTHER_MAC}")
    assert code != 0
    assert rig.vm.check(f"cat {address}").strip() == MAC


def test_trust_is_taken_away_and_given_back(rig: Rig, emuiavf: Host, works: Any) -> None:
    for trust in ("off", "on"):
        emuiavf("set", "trust", trust)
        wait_log(rig, "Reset indication received")
        works()
        rig.vm.check("dmesg -c > /dev/null")


def test_link_state_is_seen(rig: Rig, emuiavf: Host) -> None:
    carrier = f"cat /sys/class/net/{rig.ifname}/carrier"
    for word, seen in (("disable", 0), ("enable", 1), ("auto", 1)):
        emuiavf("set", "link-state", word)
        rig.vm.wait(f"[ $({carrier}) = {seen} ]", AGAIN_S)


def test_mtu_is_bounded(rig: Rig, emuiavf: Host, works: Any) -> None:
    for mtu in ("1300", "9702"):
        emuiavf("set", "mtu", mtu)
        wait_log(rig, "Reset indication received")
        works()
        rig.vm.check("dmesg -c > /dev/null")
        assert rig.ping(20, 1200).clean


# Reads frames of an interface until one comes from an address; prints its VLAN tag.  Linux takes
# the tag out of the frame and tells it beside.
SNIFF = """
import socket, struct, sys
name, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((name, 0))
s.setsockopt(263, 8, 1)
s.settimeout(20)
while True:
    data, beside, _, _ = s.recvmsg(4096, 256)
    if data[6:12] != mac:
        continue
    for _, kind, aux in beside:
        status, _, _, _, _, tci, tpid = struct.unpack_from("IIIHHHH", aux)
        if kind == 8 and status & 0x10:
            print(hex(tpid), hex(tci))
            sys.exit()
    print("untagged" if data[12:14] != bytes.fromhex("8100") else "0x8100 0x" + data[14:16].hex())
    sys.exit()
"""


@pytest.mark.parametrize(("proto", "tpid"), [("802.1Q", "0x8100"), ("802.1ad", "0x88a8")])
def test_port_vlan_is_not_seen_by_the_guest(
    rig: Rig, emuiavf: Host, works: Any, proto: str, tpid: str
) -> None:
    offload = f"ethtool -k {rig.ifname} | grep -q '^rx-vlan-offload: {{}}'"
    rig.vm.check(offload.format("on"))
    emuiavf("set", "vlan", str(VLAN), "qos", "3", "proto", proto)
    try:
        rig.vm.wait(offload.format("off"), AGAIN_S)
        rig.wait_carrier(AGAIN_S)
        command = (sys.executable, "-c", SNIFF, TAP, MAC)
        with rig.host.popen(*command, stdout=subprocess.PIPE) as sniffer:
            # ARP requests for somebody nobody knows, until one is seen.
            rig.vm.check(f"(ping -q -w 15 {rig.net.host}9 > /dev/null 2>&1 &)")
            said, _ = sniffer.communicate(timeout=30)
        rig.vm.run("killall ping")
        assert said.split() == [tpid, "0x6005"]
        assert rig.vm.run(f"ping -n -q -c 1 -W 0.5 {rig.net.host}")[0] != 0
    finally:
        emuiavf("set", "vlan", "0")
    works()
    rig.vm.wait(offload.format("on"), AGAIN_S)


def spoofed(rig: Rig) -> int:
    return sum(count for name, count in rig.stats().items() if name.endswith(".spoofed"))


def test_spoofed_frames_are_dropped_and_others_are_not(rig: Rig, emuiavf: Host) -> None:
    """What the guest pings with has another source address on its way out."""
    name = rig.ifname
    forge = f"action pedit ex munge eth src set {OTHER_MAC} pipe action pass"
    emuiavf("set", "spoofchk", "on")
    try:
        assert rig.ping(20).clean
        assert spoofed(rig) == 0
        rig.vm.check(f"tc qdisc add dev {name} clsact")
        rig.vm.check(f"tc filter add dev {name} egress protocol ip u32 match u32 0 0 {forge}")
        lost = measure.ping(rig.vm, rig.net.host, 20, options="-W 1")
        assert (lost.received, spoofed(rig)) == (0, 20)
        emuiavf("set", "spoofchk", "off")
        assert rig.ping(20).clean
        assert spoofed(rig) == 20
    finally:
        emuiavf("set", "spoofchk", "off")
        rig.vm.run(f"tc qdisc del dev {name} clsact")
    assert "Reset" not in rig.vm.check("dmesg")


def test_promised_rate_is_had_without_a_notice(
    rig: Rig, emuiavf: Host, state: Callable[[], dict[str, Any]]
) -> None:
    emuiavf("set", "min-rate", "50", "max-rate", "100")
    try:
        with measure.iperf_server(rig.host, rig.cache):
            end = measure.iperf(rig.vm, rig.net.host, seconds=3)
        now = state()
        assert (now["min-rate"], now["max-rate"]) == (50, 100)
    finally:
        emuiavf("set", "min-rate", "0", "max-rate", "0")
    assert 50 < measure.mbits(end) < 100
    assert "Reset" not in rig.vm.check("dmesg")


def test_lowest_rate_is_kept_and_nothing_hangs(rig: Rig, emuiavf: Host) -> None:
    emuiavf("set", "max-rate", "10")
    before = rig.stats()
    try:
        with measure.iperf_server(rig.host, rig.cache):
            end = measure.iperf(rig.vm, rig.net.host, seconds=7)
    finally:
        emuiavf("set", "max-rate", "0")
    after = rig.stats()
    # Goodput: 1448 of 1514 bytes.
    assert 8.5 < measure.mbits(end) < 10
    assert after["tx_discards"] == before["tx_discards"]
    assert timeouts(rig) == 0


# inject


def test_reset_is_announced(rig: Rig, emuiavf: Host) -> None:
    emuiavf("reset")
    wait_log(rig, "Reset indication received")


def test_link_down(rig: Rig, emuiavf: Host) -> None:
    emuiavf("inject", "link-down", "--seconds", "2")
    rig.vm.wait(f"[ $(cat /sys/class/net/{rig.ifname}/carrier) = 0 ]")


def test_pf_reset(rig: Rig, emuiavf: Host) -> None:
    emuiavf("inject", "pf-reset", "--seconds", "1")
    wait_log(rig, "Reset indication received")


def test_vflr(rig: Rig, emuiavf: Host) -> None:
    emuiavf("inject", "vflr")
    wait_log(rig, "Hardware reset detected")


def test_lost_request(rig: Rig, emuiavf: Host, state: Callable[[], dict[str, Any]]) -> None:
    """The driver waits for statistics until the host has pity."""
    emuiavf("inject", "adminq-drop", "1", "--recover", "1")
    wait_log(rig, "Reset indication received", ask_statistics(rig))
    assert state()["injected"] == []


def test_refused_request(rig: Rig, emuiavf: Host, state: Callable[[], dict[str, Any]]) -> None:
    emuiavf("inject", "adminq-error", "GET_STATS", "ERR_PARAM")
    wait_log(rig, "PF returned error -5", ask_statistics(rig))
    assert state()["injected"] == []


def test_lost_interrupts(
    rig: Rig, emuiavf: Host, works: Any, state: Callable[[], dict[str, Any]]
) -> None:
    emuiavf("inject", "irq-drop", "3", "--recover", "0.5")
    rig.vm.check(f"for i in 1 2 3 4 5 6; do ping -q -c 1 -W 1 {rig.net.host}; done; true", 30)
    works()
    assert state()["injected"] == []


def test_corrupted_frames(rig: Rig, emuiavf: Host, state: Callable[[], dict[str, Any]]) -> None:
    emuiavf("inject", "rx-corrupt", "20")
    _, text = rig.vm.run(f"ping -q -i 0.01 -c 40 -W 1 {rig.net.host}")
    corrupted = re.search(r"\+(\d+) corrupted", text)
    assert corrupted is not None, text
    assert 1 <= int(corrupted[1]) <= 20
    assert state()["injected"] == []


def test_hanging_queue(rig: Rig, emuiavf: Host, state: Callable[[], dict[str, Any]]) -> None:
    before = timeouts(rig)
    emuiavf("inject", "tx-hang", "--seconds", "60")
    flood = f"ping -q -f -s 1400 -W 1 {rig.net.host} > /dev/null 2>&1"
    rig.vm.check(f"{flood} & echo $! > /tmp/flood")
    counts = f"cat /sys/class/net/{rig.ifname}/queues/tx-*/tx_timeout"
    rig.vm.wait(f"{counts} | awk '{{n += $1}} END {{exit n <= {before}}}'", 2 * AGAIN_S)
    rig.vm.check("kill -9 $(cat /tmp/flood); wait; true")
    rig.wait_ping(AGAIN_S)
    assert state()["injected"] == []
