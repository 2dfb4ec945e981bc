"""Guests that are joined; and two on one wire, by a clock of the test's own: one sends without end,
one receives."""

import time

from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RxFilter, TxShaping
from tests.rings import Driver

TX_BYTES, TX_PACKETS, DISCARDS = 0, 6, 4
MS = 1_000_000


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


def frame(dst: bytes, size: int) -> bytes:
    return dst + mac(0xAA) + b"\x08\x00" + bytes(size - 14)


def joined(
    count: int, hold_s: float = 10.0, buffers: int = 0, **kwargs: int
) -> tuple[Engine, list[Driver]]:
    """`count` guests with address mac(i), all rings enabled, `buffers` posted, connected."""
    engine = Engine(hold_s=hold_s)
    drivers = [Driver(str(number), **kwargs) for number in range(count)]
    for number, driver in enumerate(drivers):
        driver.vf.set_filter(RxFilter(frozenset({mac(number)})))
        driver.enable()
        driver.post(buffers)
        engine.add(driver.vf)
    engine.connect(*[driver.vf for driver in drivers])
    return engine, drivers


class Wire:
    """One guest that sends without end to another, whose buffers never run out; `now` is ours."""

    def __init__(
        self, rate: int, size: int, queues: int = 1, ring_len: int = 512, busy: int | None = None
    ) -> None:
        """Of `queues` Tx queues the first `busy` are kept full."""
        self.engine = Engine(hold_s=1000.0)
        self.sender, self.sink = Driver("a", queues, ring_len=ring_len), Driver("b", ring_len=2048)
        for number, driver in enumerate((self.sender, self.sink)):
            driver.vf.set_filter(RxFilter(frozenset({mac(number)})))
            driver.enable()
            self.engine.add(driver.vf)
        self.engine.connect(self.sender.vf, self.sink.vf)
        self.size = size
        self.queues = queues
        self.busy = queues if busy is None else busy
        self.address = self.sender.take(size)
        self.sender.memory[self.address : self.address + size] = frame(mac(1), size)
        word = 0x30 | size << 34
        for queue in range(queues):
            for slot in range(ring_len):
                self.sender.put_qwords(
                    self.sender.tx_ring[queue] + slot * 16, self.address, word & ~0x20
                )
        self.sink.post(2047)
        self.sender.vf.set_rate(rate)
        self.now = time.monotonic_ns()

    def shape(self, peaks: dict[int, int], quanta: dict[int, int] | None = None) -> None:
        """As the guest asks: Kb/s and bytes by queue.  Limits begin by the clock of the machine."""
        self.sender.vf.set_tx_shaping(TxShaping(peaks, quanta or {}))
        self.now = max(self.now, time.monotonic_ns())

    def heads(self) -> list[int]:
        return [self.sender.vf.ring_state("tx", queue)["head"] for queue in range(self.queues)]

    def refill(self) -> None:
        """Full Tx rings, empty Rx rings."""
        for queue, head in enumerate(self.heads()[: self.busy]):
            self.sender.tail(4 * queue, (head - 1) % self.sender.ring_len)
        head = self.sink.vf.ring_state("rx", 0)["head"]
        self.sink.tail(0x2000, (head - 1) % self.sink.ring_len)

    def run(self, duration_ns: int, step_ns: int) -> int:
        """Turns every `step_ns` for so long; the bytes sent."""
        before = self.sent()
        end = self.now + duration_ns
        while self.now < end:
            self.now += step_ns
            self.refill()
            self.engine.step(1, self.now)
        return self.sent() - before

    def sent(self) -> int:
        return int(self.sender.rows[self.queues :, TX_BYTES].sum())
