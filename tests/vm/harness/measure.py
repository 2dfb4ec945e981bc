"""Traffic between a guest and the host's namespace, and what it left in the counters of both."""

import json
import re
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vm.harness.guest import Guest
from tests.vm.harness.netns import Namespace

# A recent ethtool asks to leave the hash's input as it is with a value that iavf of 6.12 takes for
# a wish for the symmetric hash, and refuses.
XFRM_NONE = "xfrm none"


@dataclass(frozen=True)
class Ping:
    sent: int
    received: int
    duplicates: int
    p50_us: float

    @property
    def clean(self) -> bool:
        return self.received == self.sent and not self.duplicates


def ping(
    vm: Guest,
    address: str,
    count: int = 100,
    size: int = 64,
    *,
    prefix: str = "",
    options: str = "",
) -> Ping:
    """Echo requests every 2 ms from the guest; `prefix` may enter a namespace of the guest."""
    command = f"{prefix} ping -n -i 0.002 -c {count} -s {size} -W 3 {options} {address}"
    _, text = vm.run(command, timeout_s=60 + count)
    return read_ping(text)


def read_ping(text: str) -> Ping:
    summary = re.search(
        r"(\d+) packets transmitted, (\d+) received,(?: \+(\d+) duplicates,)?", text
    )
    if not summary:
        raise ValueError(f"ping said: {text[-500:]}")
    times = [float(word) * 1000 for word in re.findall(r"time=([\d.]+) ms", text)]
    return Ping(
        int(summary[1]),
        int(summary[2]),
        int(summary[3] or 0) + text.count("DUP!") * (not summary[3]),
        statistics.median(times) if times else float("inf"),
    )


@contextmanager
def iperf_server(run_in: Namespace, cache: Path, port: int = 5201) -> Iterator[None]:
    """An iperf3 server in a namespace of the host."""
    with run_in.popen(cache / "bin" / "iperf3", "-s", "-p", str(port), stdout=-3, stderr=-3) as it:
        try:
            end = time.monotonic() + 10
            while f":{port} " not in run_in.run("ss", "-ltn"):
                if it.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("iperf3 does not listen")
                time.sleep(0.02)
            yield
        finally:
            it.terminate()


def iperf(
    vm: Guest,
    address: str,
    options: str = "",
    *,
    seconds: float = 2,
    size: str = "",
    prefix: str = "",
) -> Any:
    """One run of the guest's iperf3 client, for a time or until it has sent so much.

    Returns the `end` object of its JSON.
    """
    # With an end by size it notices that end when it reports.
    until = f"-i 0.1 -n {size}" if size else f"-i 0 -t {seconds:g}"
    command = f"{prefix} iperf3 -c {address} -J {until} {options}"
    code, text = vm.run(command, timeout_s=seconds + 60)
    try:
        found = json.loads(text[text.index("{") :])
    except ValueError:
        raise RuntimeError(f"{command}: {code}: {text[-500:]}") from None
    if "error" in found:
        raise RuntimeError(f"{command}: {found['error']}")
    return found["end"]


def mbits(end: Any) -> float:
    """Received megabits per second of an iperf3 run."""
    return float(end.get("sum_received", end.get("sum"))["bits_per_second"]) / 1e6


CSUM = re.compile(r"^(\w*Csum\w*)\s+(\d+)", re.MULTILINE)


def checksum_errors(nstat: str) -> dict[str, int]:
    """The checksum error counters that are not zero, of `nstat -asz`."""
    found = CSUM.findall(nstat)
    assert found, nstat
    return {name: int(value) for name, value in found if int(value)}


def guest_nstat(vm: Guest, prefix: str = "") -> str:
    return vm.check(f"{prefix} nstat -asz")


def host_nstat(host: Namespace) -> str:
    return host.run("nstat", "-asz")


def ethtool_stats(text: str) -> dict[str, int]:
    """`ethtool -S` as a table."""
    return {
        match[1].strip(): int(match[2])
        for match in re.finditer(r"^\s*([^:\n]+):\s*(\d+)$", text, re.MULTILINE)
    }


def interface(vm: Guest, *, mac: str = "", driver: str = "", timeout_s: float = 20) -> str:
    """The name of the guest's interface with this MAC address or driver."""
    want = (
        f"[ $(cat $d/address) = {mac} ]"
        if mac
        else f"[ x$(basename $(readlink $d/device/driver)) = x{driver} ]"
    )
    return vm.wait(
        f"(for d in /sys/class/net/*; do if [ -e $d/device ] && {want}; "
        "then basename $d; exit 0; fi; done 2>/dev/null; exit 1)",
        timeout_s,
    ).split()[-1]


RAW = re.compile(r"^<(\d+)>\[ *([\d.]+)\] (.*)$", re.MULTILINE)
# What the kernel says about a device of ours, about PCI, or about a transmit queue that stands.
OURS = re.compile(
    r"iavf|\bpci|eth\d|NETDEV WATCHDOG|netdev|Call Trace|BUG|WARNING|rcu", re.IGNORECASE
)


def complaints(vm: Guest, allowed: Iterable[str] = ()) -> list[str]:
    """Kernel messages of warning level or worse that concern us."""
    found = []
    for level, _, text in RAW.findall(vm.check("dmesg -r")):
        ignored = any(re.search(pattern, text) for pattern in allowed)
        if int(level) & 7 <= 4 and OURS.search(text) and not ignored:
            found.append(text)
    return found


def interrupts(vm: Guest, pattern: str) -> dict[str, int]:
    """Interrupts so far by the name of their action, of /proc/interrupts."""
    found = {}
    for line in vm.check("cat /proc/interrupts").splitlines():
        words = line.split()
        if words and re.search(pattern, words[-1]):
            found[words[-1]] = sum(int(word) for word in words[1:] if word.isdigit())
    return found
