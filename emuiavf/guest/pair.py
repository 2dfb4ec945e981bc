"""Checked traffic between two VFs, as a process of its own: `python -m emuiavf.guest.pair JSON`.

All it shares with the backend are the sockets, the memory it gives by DMA_MAP and the doorbell
pages it is given.  Prints one JSON object per line: progress, and at last `"final": true`.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from emuiavf._pattern import flow_header
from emuiavf.errors import ConfigError
from emuiavf.guest._traffic import Traffic
from emuiavf.guest.driver import VfDriver
from emuiavf.guest.traffic import Flow, Report, report, steer

DRAIN_S = 2.0
SLICE_S = 0.1
BUF_SIZE = 2048
MAX_RING_LEN = 512
MIN_RING_LEN = 64
# What the buffers of one ring, all queues together, may touch: beyond a core's cache, longer
# queues add latency and no frames per second.
RING_BYTES = 256 << 10
FIRST_PORT = 10_000
PORTS_PER_QUEUE = 1_000
LAST_PORTS = 60_000


@dataclass(frozen=True)
class Plan:
    """What to send between the devices behind `paths`, for how long."""

    paths: tuple[str, str]
    seconds: float = 3.0
    size: int = 64
    queues: int = 1
    inject: str = ""


def flows_between(
    sender: VfDriver, receiver: VfDriver, min_size: int = 64, max_size: int = 0
) -> list[Flow]:
    """One flow per queue pair, from Tx ring i to Rx ring i; RSS of the receiver is respected."""
    flows = []
    rss = receiver.settings.rss
    src_ip, dst_ip = (b"\x0a\x00" + vf.mac[4:6] for vf in (sender, receiver))
    for index, (out, into) in enumerate(zip(sender.queues, receiver.queues, strict=False)):
        port = FIRST_PORT + PORTS_PER_QUEUE * index % (LAST_PORTS - FIRST_PORT)
        header = flow_header(sender.mac, receiver.mac, src_ip, dst_ip, port)
        if rss is not None:
            header = steer(rss.key, rss.lut, header, index)
        flows.append(Flow(out.tx, into.rx, header, min_size, max_size or min_size))
    return flows


def ring_len_for(size: int, queues: int) -> int:
    """Descriptors per ring that suit frames of `size` bytes on this many queue pairs."""
    wanted = min(MAX_RING_LEN, RING_BYTES // min(size, BUF_SIZE)) // queues
    return max(MIN_RING_LEN, wanted // 32 * 32)


class Pair:
    """Two started VFs and the traffic between them, both ways or to itself when they are one.

    `window` bounds the frames under way to one Rx ring; 0: half of its buffers.
    """

    def __init__(self, first: VfDriver, second: VfDriver, *, size: int = 64, window: int = 0):
        forth = flows_between(first, second, size)
        back = flows_between(second, first, size) if first is not second else []
        self.directions = (range(len(forth)), range(len(forth), len(forth) + len(back)))
        self._vfs = (first, second)
        mapped = first.doorbells_mapped and second.doorbells_mapped
        self.traffic = Traffic(
            forth + back,
            window=window or max(1, first.queues[0].rx.ring_len // 2),
            flush=None if mapped else self._flush,
        )
        self.seconds = 0.0

    def run(self, seconds: float) -> None:
        """Send and check for a while."""
        start = time.monotonic()
        self.traffic.run(seconds)
        self.seconds += time.monotonic() - start

    def reports(self, *, final: bool) -> list[Report]:
        """One report per direction."""
        return [
            report(self.traffic, numbers, self.seconds, final)
            for numbers in self.directions
            if numbers
        ]

    @property
    def num_flows(self) -> int:
        return sum(map(len, self.directions))

    def _flush(self) -> None:
        """Doorbells as messages: buffers first, they must be there before what fills them."""
        queues = [queue for vf in self._vfs for queue in vf.queues]
        for queue in queues:
            queue.flush_rx()
        for queue in queues:
            queue.flush_tx()


def run(plan: Plan, progress: Callable[[list[Report]], None]) -> list[Report]:
    """Bring both VFs up, send both ways, wait for the last frame; one report per direction."""
    with ExitStack() as stack:
        vfs = [stack.enter_context(VfDriver(path)) for path in plan.paths]
        for vf in vfs:
            vf.start(plan.queues, ring_len=ring_len_for(plan.size, plan.queues), buf_size=BUF_SIZE)
        pair = Pair(vfs[0], vfs[1], size=plan.size)
        end = time.monotonic() + plan.seconds
        inject = {"flip": pair.traffic.flip, "skip": pair.traffic.skip}.get(plan.inject)
        if inject is not None:
            inject(0)
        while (left := end - time.monotonic()) > 0:
            pair.run(min(SLICE_S, left))
            progress(pair.reports(final=False))
        pair.traffic.drain(DRAIN_S)
        return pair.reports(final=True)


def as_json(reports: list[Report], *, final: bool) -> str:
    """One line for the process that watches."""
    rows: list[dict[str, Any]] = [
        {**asdict(one), "mpps": one.mpps, "gbps": one.gbps, "clean": one.clean} for one in reports
    ]
    return json.dumps({"final": final, "directions": rows})


def main(argument: str) -> None:
    """Run the plan in `argument`, a JSON object with the fields of Plan."""
    fields = json.loads(argument)
    plan = Plan(**{**fields, "paths": tuple(fields["paths"])})
    if plan.inject not in ("", "flip", "skip"):
        raise ConfigError(f"inject={plan.inject}: flip or skip")
    reports = run(plan, lambda now: print(as_json(now, final=False), flush=True))
    print(as_json(reports, final=True), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
