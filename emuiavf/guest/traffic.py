"""Flows for `_traffic.Traffic`, and what its counters say: rates, losses and latency.

A flow's UDP ports are chosen so that Toeplitz hashing steers it to the Rx queue it is due in.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emuiavf.guest._pmd import RxRing, TxRing
from emuiavf.guest._traffic import LATENCY_BUCKETS, MIN_SIZE, Traffic, bucket_ns

RSS_KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
) + bytes(12)
"""The key of Microsoft's published test vectors, filled up to 52 bytes."""

FIRST_FREE_PORT = 1024


@dataclass(frozen=True)
class Flow:
    """Frames from one Tx ring to one Rx ring; sizes without FCS, chosen evenly between them."""

    tx: TxRing
    rx: RxRing
    header: bytes
    min_size: int = MIN_SIZE
    max_size: int = MIN_SIZE


def toeplitz(key: bytes, data: bytes) -> int:
    """The Toeplitz hash of `data`, most significant bit first."""
    window = int.from_bytes(key, "big")
    shift = 8 * len(key) - 32
    result = 0
    for at in range(8 * len(data)):
        if data[at // 8] << at % 8 & 0x80:
            result ^= window >> (shift - at) & 0xFFFF_FFFF
    return result


def steer(key: bytes, lut: bytes, header: bytes, queue: int) -> bytes:
    """The same header with the next UDP source port that hashes to Rx queue `queue`.

    Behind the last port comes the first that no service has.  ValueError when the table names the
    queue nowhere.
    """
    # The hash of a XOR is the XOR of hashes: each bit of the port adds its own.
    fixed = toeplitz(key, header[26:34] + bytes(2) + header[36:38])
    of_bit = [toeplitz(key, bytes(8) + struct.pack(">H", 1 << bit)) for bit in range(16)]
    start = struct.unpack_from(">H", header, 34)[0]
    for port in (*range(start, 0x1_0000), *range(FIRST_FREE_PORT, start)):
        found = fixed
        for bit in range(16):
            if port >> bit & 1:
                found ^= of_bit[bit]
        if lut[found % len(lut)] == queue:
            return header[:34] + struct.pack(">H", port) + header[36:]
    raise ValueError(f"no UDP port leads to Rx queue {queue}")


@dataclass(frozen=True)
class Report:
    """Counters of some flows together, over `seconds`; latencies in us."""

    seconds: float
    sent: int
    received: int
    received_bytes: int
    lost: int
    reordered: int
    corrupted: int
    misdirected: int
    latency_p50_us: float
    latency_p99_us: float

    @property
    def mpps(self) -> float:
        """Million frames received per second."""
        return self.received / self.seconds / 1e6 if self.seconds else 0.0

    @property
    def gbps(self) -> float:
        """Gigabits of frames (without FCS, preamble and gap) received per second."""
        return self.received_bytes * 8 / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def clean(self) -> bool:
        """Everything sent has arrived, in order, whole, and where it was due."""
        faults = self.lost + self.reordered + self.corrupted + self.misdirected
        return faults == 0 and self.received == self.sent > 0


def report(traffic: Traffic, flows: Iterable[int], seconds: float, final: bool = True) -> Report:
    """Sum up the flows with these numbers; `final`: what is still under way counts as lost."""
    numbers = list(flows)
    counters = [traffic.counters(number) for number in numbers]
    latency = sum_histograms(traffic.latencies(number) for number in numbers)
    p50, p99 = percentiles(latency, (0.5, 0.99))
    lost = sum(one["lost"] for one in counters)
    if final:
        lost += sum(one["in_flight"] for one in counters)
    return Report(
        seconds=seconds,
        sent=sum(one["sent"] for one in counters),
        received=sum(one["received"] for one in counters),
        received_bytes=sum(one["received_bytes"] for one in counters),
        lost=lost,
        reordered=sum(one["reordered"] for one in counters),
        corrupted=sum(one["corrupted"] for one in counters),
        misdirected=sum(one["misdirected"] for one in counters),
        latency_p50_us=p50 / 1000,
        latency_p99_us=p99 / 1000,
    )


def sum_histograms(histograms: Iterable[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    """One histogram of all."""
    total = np.zeros(LATENCY_BUCKETS, dtype=np.uint64)
    for histogram in histograms:
        total += histogram
    return total


def percentiles(histogram: npt.NDArray[np.uint64], shares: Sequence[float]) -> list[float]:
    """Latencies in ns below which these shares of the frames lie; 0 without any frame."""
    total = int(histogram.sum())
    if total == 0:
        return [0.0] * len(shares)
    reached = np.cumsum(histogram)
    return [float(bucket_ns(int(np.searchsorted(reached, share * total)))) for share in shares]
