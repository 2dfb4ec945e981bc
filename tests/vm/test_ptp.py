"""The newest kernel's iavf: its PTP clock, and the times of received frames.

iavf of 7.x tells `ethtool -T` of neither (it has no get_ts_info), so programs like tcpdump do not
ask for them; harness/phc.c does.
"""

import base64
import gzip
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.harness.netns import Namespace
from tests.vm.harness.rig import Rig

KERNELS = ("7",)
COUNT = 5
PORT = 3190
SOURCE = Path(__file__).parent / "harness" / "phc.c"
SEND = (
    "import socket, sys, time\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "for _ in range(int(sys.argv[3])):\n"
    "    s.sendto(b'x', (sys.argv[1], int(sys.argv[2])))\n"
    "    time.sleep(0.5)\n"
)


@pytest.fixture(scope="module")
def rig(
    kernel: str, cache: Path, host: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp(f"ptp-{kernel}")
    program = folder / "phc"
    subprocess.run(["gcc", "-Os", "-s", "-Wall", "-o", program, SOURCE], check=True)
    with Rig(cache, kernel, host, folder, queues=1) as ready:
        text = base64.b64encode(gzip.compress(program.read_bytes())).decode()
        for at in range(0, len(text), 3000):
            ready.vm.check(f"printf %s {text[at : at + 3000]} >> /tmp/phc.b64")
        ready.vm.check("base64 -d /tmp/phc.b64 | gzip -d > /tmp/phc && chmod +x /tmp/phc")
        yield ready
    assert ready.backend_faults() == []


def test_clock_is_there(rig: Rig) -> None:
    name = rig.vm.check(f"cat /sys/bus/pci/devices/{rig.bdf}/ptp/ptp0/clock_name").strip()
    assert name == f"iavf-{rig.bdf}-clk"


def test_clock_and_received_frames_have_the_time_of_the_host(rig: Rig) -> None:
    rig.wait_ping(30)
    before = time.time_ns()
    rig.vm.start(f"/tmp/phc {rig.ifname} {PORT} {COUNT} > /tmp/times 2>&1")
    # The guest has no other way to say that it listens: what comes too early is sent again.
    rig.host.run(sys.executable, "-c", SEND, rig.net.guest, str(PORT), str(3 * COUNT))
    code, _ = rig.vm.finish()
    text = rig.vm.check("cat /tmp/times")
    after = time.time_ns()
    assert code == 0, text
    found = re.findall(r"^(clock|frame) (\d+)\.(\d{9})$", text, re.M)
    assert [kind for kind, *_ in found] == ["clock", *["frame"] * COUNT, "clock"], text
    times = [int(seconds) * 1_000_000_000 + int(rest) for _, seconds, rest in found]
    assert times == sorted(set(times))
    # The clock was the host's when the backend began.
    slack = 100_000_000
    assert before - slack <= times[0] <= times[-1] <= after + slack
    assert times[-1] - times[0] > 1_500_000_000
