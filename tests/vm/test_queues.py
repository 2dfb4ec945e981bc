"""Four queue pairs: flows spread as the hash says, and interrupts stay under their ITR.

The device has 64, of which a driver that does not ask for more than 16 sees nothing.
"""

import json
import random
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.harness import measure
from tests.vm.harness.backend import control, wait_until
from tests.vm.harness.netns import Namespace
from tests.vm.harness.rig import Rig

QUEUES = 4
DEVICE_PAIRS = 64
FLOWS = 8
ITR_US = 500
SERVER_PORT = 5201
KEY = random.Random(1889).randbytes(52)


def toeplitz(data: bytes) -> int:
    """The hash by its definition: for each set bit, the 32 bits of the key that begin there."""
    key = int.from_bytes(KEY, "big")
    found = 0
    for at in range(8 * len(data)):
        if data[at // 8] >> (7 - at % 8) & 1:
            found ^= key >> (8 * len(KEY) - 32 - at) & 0xFFFFFFFF
    return found


def queue_of(source: str, port: int, destination: str, destination_port: int) -> int:
    """The Rx queue of a TCP segment when the 64 entries of the table go round the queues."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    return toeplitz(ends + struct.pack(">HH", port, destination_port)) % 64 % QUEUES


def first_port(source: str, destination: str) -> int:
    """The first of `FLOWS` client ports in a row whose answers meet every queue twice."""
    for port in range(20000, 60000):
        queues = [queue_of(source, SERVER_PORT, destination, port + i) for i in range(FLOWS)]
        if all(queues.count(queue) == FLOWS // QUEUES for queue in range(QUEUES)):
            return port
    raise LookupError("no such ports")


@pytest.fixture(scope="module")
def rig(
    kernel: str, cache: Path, host: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp(f"queues-{kernel}")
    backend = ("--control", str(folder / "control"))
    with (
        Rig(
            cache, kernel, host, folder, queues=QUEUES, pairs=DEVICE_PAIRS, backend=backend
        ) as ready,
        measure.iperf_server(host, cache, SERVER_PORT),
    ):
        ready.change(f"ethtool -L {ready.ifname} combined {QUEUES}")
        key = ":".join(f"{byte:02x}" for byte in KEY)
        ready.ethtool(f"-X hkey {key} equal {QUEUES} {measure.XFRM_NONE}")
        yield ready
    assert ready.backend_faults() == []


def test_a_driver_that_cannot_name_64_pairs_has_16(rig: Rig) -> None:
    most, now = re.findall(r"Combined:\s+(\d+)", rig.ethtool("-l"))
    assert (most, now) == ("16", str(QUEUES))
    assert "with 64 RX ring(s)" not in rig.ethtool("-x")
    assert len(re.findall(r"^ +\d+: ", rig.ethtool("-x"), re.M)) == 64 // 8
    # Of the 65 vectors the driver has taken one for each pair in use, and that of the admin queue.
    found = rig.vm.check("ls /sys/bus/pci/devices/0000:00:05.0/msi_irqs").split()
    assert len(found) == 1 + QUEUES


def test_eight_flows_meet_every_queue_as_the_hash_says(rig: Rig) -> None:
    port = first_port(rig.net.host, rig.net.guest)
    before = rig.guest_stats()
    measure.iperf(rig.vm, rig.net.host, f"-R -P {FLOWS} --cport {port}", seconds=3)
    after = rig.guest_stats()
    grown = [after[f"rx-{i}.packets"] - before[f"rx-{i}.packets"] for i in range(QUEUES)]
    assert all(count > 20 for count in grown), grown
    assert measure.checksum_errors(measure.guest_nstat(rig.vm)) == {}


def test_interrupts_stay_under_their_itr(rig: Rig) -> None:
    rig.ethtool(f"-C adaptive-rx off adaptive-tx off rx-usecs {ITR_US} tx-usecs {ITR_US}")
    port = first_port(rig.net.host, rig.net.guest)
    before = measure.interrupts(rig.vm, "TxRx")
    up_before = float(rig.vm.check("cat /proc/uptime").split()[0])
    measure.iperf(rig.vm, rig.net.host, f"-R -P {FLOWS} --cport {port}", seconds=3)
    up_after = float(rig.vm.check("cat /proc/uptime").split()[0])
    after = measure.interrupts(rig.vm, "TxRx")
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert len(grown) == QUEUES
    limit = (up_after - up_before) * 1e6 / ITR_US
    assert all(0 < count <= limit for count in grown.values()), (grown, limit)


def tables(rig: Rig) -> int:
    """How many RSS tables the device has been given."""
    (state,) = json.loads(control(rig.folder / "control", "show", "--json"))
    return int(state["answered"].get("CONFIG_RSS_LUT", 0))


def test_every_queue_can_be_the_only_one(rig: Rig) -> None:
    for queue in range(QUEUES):
        weights = " ".join("1" if i == queue else "0" for i in range(QUEUES))
        given = tables(rig)
        rig.ethtool(f"-X weight {weights} {measure.XFRM_NONE}")
        # iavf's watchdog sends the table after ethtool has returned.
        wait_until(lambda given=given: tables(rig) > given, 10, "the table is sent")
        before = rig.guest_stats()
        measure.iperf(rig.vm, rig.net.host, "-R -P 2", seconds=1)
        after = rig.guest_stats()
        grown = {i: after[f"rx-{i}.packets"] - before[f"rx-{i}.packets"] for i in range(QUEUES)}
        assert grown[queue] > 20, grown
        # Frames without a hash (ARP) go to queue 0.
        assert all(count < 20 for i, count in grown.items() if i not in (0, queue)), grown
    rig.ethtool(f"-X equal {QUEUES} {measure.XFRM_NONE}")


def test_statistics_name_every_queue(rig: Rig) -> None:
    names = set(rig.guest_stats())
    assert {f"{way}-{i}.packets" for way in ("rx", "tx") for i in range(QUEUES)} <= names
    assert re.search(r"Combined:\s+4", rig.ethtool("-l"))
