from collections.abc import Callable, Sequence
from typing import Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from emuiavf.guest._pmd import RxRing, TxRing

LATENCY_BUCKETS: int
MIN_SIZE: int
MAX_SIZE: int

class FlowLike(Protocol):
    @property
    def tx(self) -> TxRing: ...
    @property
    def rx(self) -> RxRing: ...
    @property
    def header(self) -> bytes: ...
    @property
    def min_size(self) -> int: ...
    @property
    def max_size(self) -> int: ...

class FlowCounters(TypedDict):
    sent: int
    sent_bytes: int
    received: int
    received_bytes: int
    lost: int
    reordered: int
    corrupted: int
    misdirected: int
    in_flight: int

class Traffic:
    def __init__(
        self,
        flows: Sequence[FlowLike],
        *,
        window: int = 0,
        flush: Callable[[], object] | None = None,
    ) -> None: ...
    def run(self, seconds: float) -> None: ...
    def drain(self, seconds: float) -> bool: ...
    def resync(self) -> None: ...
    def flip(self, flow: int) -> None: ...
    def skip(self, flow: int) -> None: ...
    def counters(self, flow: int) -> FlowCounters: ...
    def latencies(self, flow: int) -> npt.NDArray[np.uint64]: ...

def bucket_ns(bucket: int) -> int: ...
