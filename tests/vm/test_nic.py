"""Debian's kernel on one VF that is wired to a TAP: probe, ping, iperf3, exact counters."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.harness import measure
from tests.vm.harness.netns import Namespace
from tests.vm.harness.rig import MAC, TAP, Rig

# iavf of 6.1 says so after a change of the MTU (Rig.change).
RESET_WAIT = (r"interrupted waiting for reset",)
OFFLOADS = ("tso", "gso", "gro", "tx", "rx")


@pytest.fixture(scope="module")
def rig(
    kernel: str, cache: Path, host: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp(f"nic-{kernel}")
    with Rig(cache, kernel, host, folder) as ready, measure.iperf_server(host, cache):
        yield ready
    assert ready.backend_faults() == []


# Probe


def test_probe_leaves_no_warning(rig: Rig) -> None:
    assert measure.complaints(rig.vm) == []


def test_address_is_the_one_given(rig: Rig) -> None:
    assert rig.vm.check(f"cat /sys/class/net/{rig.ifname}/address").strip() == MAC


def test_speed_and_carrier_are_shown(rig: Rig) -> None:
    text = rig.ethtool("")
    assert "Link detected: yes" in text
    assert re.search(r"Speed: \d+Mb/s", text)


def test_driver_information(rig: Rig) -> None:
    text = rig.ethtool("-i")
    assert "driver: iavf" in text
    assert f"bus-info: {rig.bdf}" in text


def test_channels(rig: Rig) -> None:
    assert re.findall(r"Combined:\s+(\d+)", rig.ethtool("-l")) == ["2", "2"]


def test_ring_sizes(rig: Rig) -> None:
    text = rig.ethtool("-g")
    assert re.findall(r"^[RT]X:\s+(\d+)", text, re.M) == ["4096", "4096", "512", "512"]


@pytest.mark.parametrize(
    "feature",
    [
        "rx-checksumming",
        "tx-checksumming",
        "scatter-gather",
        "tcp-segmentation-offload",
        "rx-vlan-offload",
        "tx-vlan-offload",
        "receive-hashing",
    ],
)
def test_offload_is_on(rig: Rig, feature: str) -> None:
    assert re.search(rf"^\s*{feature}: on", rig.ethtool("-k"), re.M)


def test_indirection_table_spreads_over_the_queues(rig: Rig) -> None:
    text = rig.ethtool("-x")
    rows = re.findall(r"^\s*\d+:((?:\s+\d+)+)$", text, re.M)
    entries = [int(word) for row in rows for word in row.split()]
    assert len(entries) == 64
    assert set(entries) == {0, 1}
    assert re.search(r"^(?:[0-9a-f]{2}:){51}[0-9a-f]{2}$", text, re.M)


# Ping


@pytest.mark.parametrize("size", [64, 1472, 8972])
def test_no_ping_is_lost(rig: Rig, size: int) -> None:
    rig.set_mtu(9000)
    result = rig.ping(500, size)
    assert result.clean, result


@pytest.mark.parametrize("size", [64, 8952])
def test_no_ping_of_ipv6_is_lost(rig: Rig, size: int) -> None:
    rig.set_mtu(9000)
    result = measure.ping(rig.vm, rig.net.host6, 500, size)
    assert result.clean, result


def test_the_host_reaches_the_guest(rig: Rig) -> None:
    command = (rig.cache / "bin" / "ping", "-n", "-i", "0.002", "-c", "200", rig.net.guest)
    result = measure.read_ping(rig.host.run(*command))
    assert result.clean, result


# TCP


@pytest.fixture(params=["on", "off"])
def offloads(request: pytest.FixtureRequest, rig: Rig) -> Iterator[str]:
    """Offloads of the guest's interface, switched for one test."""
    rig.set_mtu(1500)
    rig.ethtool("-K " + " ".join(f"{name} {request.param}" for name in OFFLOADS))
    yield request.param
    rig.ethtool("-K " + " ".join(f"{name} on" for name in OFFLOADS))


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("direction", ["", "-R"], ids=["to host", "to guest"])
def test_tcp_without_checksum_error(rig: Rig, offloads: str, direction: str, family: str) -> None:
    target = rig.net.host if family == "4" else rig.net.host6
    end = measure.iperf(rig.vm, target, direction, seconds=2)
    assert measure.mbits(end) > 1
    assert measure.checksum_errors(measure.guest_nstat(rig.vm)) == {}
    assert measure.checksum_errors(measure.host_nstat(rig.host)) == {}
    timeouts = rig.vm.check(f"cat /sys/class/net/{rig.ifname}/queues/tx-*/tx_timeout")
    assert set(timeouts.split()) == {"0"}
    assert measure.complaints(rig.vm, RESET_WAIT) == []


# UDP, and counters that agree

MOST_PADDING = 18  # of an ARP frame, the shortest there is
GUEST_TO_DEVICE = ("unicast", "multicast", "broadcast", "bytes", "discards")


def host_link(rig: Rig) -> dict[str, Any]:
    found = json.loads(rig.host.run("ip", "-j", "-s", "link", "show", TAP))
    stats: dict[str, Any] = found[0]["stats64"]
    return stats


def settled(rig: Rig) -> dict[str, int]:
    """The guest's counters, when two reads 4 s apart agree (its driver asks every 2 s)."""
    end = time.monotonic() + 60
    before = rig.guest_stats()
    while time.monotonic() < end:
        rig.vm.check("sleep 4")
        after = rig.guest_stats()
        if after == before:
            return after
        before = after
    raise TimeoutError("the guest's counters do not settle")


@pytest.fixture
def quiet(rig: Rig) -> Iterator[None]:
    """Nothing but what the test sends, and no frame larger or smaller than on the wire."""
    rig.set_mtu(1500)
    rig.ethtool("-K tso off gso off gro off")
    rig.host.run(rig.cache / "bin" / "ethtool", "-K", TAP, "tso", "off", "gso", "off")
    tap_mac = rig.host.run("cat", f"/sys/class/net/{TAP}/address").strip()
    neighbour = "ip neigh replace {} lladdr {} dev {} nud permanent"
    rig.vm.check(neighbour.format(rig.net.host, tap_mac, rig.ifname))
    rig.host.run(*neighbour.format(rig.net.guest, MAC, TAP).split())
    switch = "echo {} > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    rig.vm.check(switch.format(1))
    rig.host.run("sh", "-c", switch.format(1))
    yield
    rig.vm.check(switch.format(0))
    rig.host.run("sh", "-c", switch.format(0))
    rig.ethtool("-K tso on gso on gro on")


def test_udp_counters_agree_everywhere(rig: Rig, quiet: None) -> None:
    guest_before = settled(rig)
    host_before, device_before = host_link(rig), rig.stats()
    for direction in ("", "-R"):
        measure.iperf(rig.vm, rig.net.host, f"-u -b 20M -l 18 {direction}", seconds=2)
    guest = settled(rig)
    host_after, device = host_link(rig), rig.stats()
    # The driver also lists queues that the device has not; those have counted nothing.
    silent = dict.fromkeys((name for name in guest if "-" in name), 0)
    device_before, device = silent | device_before, silent | device

    # iavf pads what is shorter than 60 bytes before it counts rx-N.bytes: here the few datagrams by
    # which iperf3 opens a flow.  So these may differ by that, all others agree exactly.
    for name in [name for name in guest if re.fullmatch(r"rx-\d+\.bytes", name)]:
        padding = guest.pop(name) - guest_before[name] - device[name] + device_before[name]
        assert 0 <= padding <= 4 * MOST_PADDING, name
    shared = {name for name in guest if name in device}
    assert {f"{way}_{kind}" for way in ("rx", "tx") for kind in GUEST_TO_DEVICE} <= shared
    ours = {name: guest[name] for name in shared if "-" not in name}
    assert ours == {name: device[name] for name in ours}
    # Those of a queue are the driver's own.  It never sees what lies in its rings when it resets
    # the VF, for the MTU say, so they are compared from here on.
    theirs = {name: guest[name] - guest_before[name] for name in shared if "-" in name}
    assert theirs == {name: device[name] - device_before[name] for name in theirs}

    def grown(*names: str) -> int:
        return sum(device[name] - device_before[name] for name in names)

    sent = grown("tx_unicast", "tx_multicast", "tx_broadcast")
    received = grown("rx_unicast", "rx_multicast", "rx_broadcast")
    assert sent > 1000
    assert received > 1000
    assert host_after["rx"]["packets"] - host_before["rx"]["packets"] == sent
    assert host_after["tx"]["packets"] - host_before["tx"]["packets"] == received
    assert host_after["rx"]["bytes"] - host_before["rx"]["bytes"] == grown("tx_bytes")
    # rx_bytes counts the four bytes of the FCS, as the hardware does; tx_bytes does not.
    assert (
        host_after["tx"]["bytes"] - host_before["tx"]["bytes"] == grown("rx_bytes") - 4 * received
    )
