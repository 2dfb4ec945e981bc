"""Generator and checker over a slow model device: what is lost, damaged or misplaced is counted."""

import random
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from emuiavf._pattern import flow_header
from emuiavf.guest._traffic import Traffic, bucket_ns
from emuiavf.guest.memory import DmaMemory
from emuiavf.guest.traffic import RSS_KEY, Flow, percentiles, report, steer, toeplitz
from tests.guest.conftest import Loop, make_loop

HEADER = flow_header(
    b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02", bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 4000
)


ENOUGH = 100
DEADLINE_S = 10.0


def run_until(traffic: Traffic, count: int = ENOUGH, what: str = "received") -> None:
    """Run in short slices until a counter has reached `count`."""
    deadline = time.monotonic() + DEADLINE_S
    while traffic.counters(0)[what] < count:  # type: ignore[literal-required]
        assert time.monotonic() < deadline, traffic.counters(0)
        traffic.run(0.002)


def run(loop: Loop, carry: Callable[[], object], size: tuple[int, int] = (64, 64)) -> Traffic:
    """Enough traffic through `loop`, with the model device as its doorbell."""
    traffic = Traffic([Flow(loop.tx, loop.rx, HEADER, *size)], flush=carry)
    run_until(traffic, what="sent")
    traffic.drain(0.01)
    return traffic


@pytest.mark.parametrize("size", [(64, 64), (64, 1500), (1518, 1518), (3000, 3000)])
def test_every_frame_arrives_whole_and_in_order(loop: Loop, size: tuple[int, int]) -> None:
    traffic = run(loop, loop.carry, size)

    assert traffic.drain(1)
    result = report(traffic, [0], 0.02)
    assert result.clean
    assert result.received >= ENOUGH


def test_frames_are_valid_ipv4_of_their_size(loop: Loop) -> None:
    seen: list[bytes] = []

    def carry() -> None:
        seen.extend(frame.data for frame in loop.tx_model.take(loop.tx.tail))

    # Nothing comes back, so that the window ends it.
    traffic = Traffic([Flow(loop.tx, loop.rx, HEADER, 64, 1500)], flush=carry)
    run_until(traffic, 2, "sent")
    traffic.run(0.001)

    packet = Ether(seen[1])
    assert packet[IP].len == len(seen[1]) - 14
    assert packet[UDP].len == len(seen[1]) - 34
    checksum = packet[IP].chksum
    del packet[IP].chksum
    assert Ether(bytes(packet))[IP].chksum == checksum


def test_never_more_under_way_than_posted_buffers(loop: Loop) -> None:
    most = [0]

    def carry() -> None:
        flying = traffic.counters(0)["in_flight"]
        most[0] = max(most[0], flying)
        assert flying * 3 <= loop.rx.posted
        loop.carry()

    traffic = Traffic([Flow(loop.tx, loop.rx, HEADER, 1500, 1500)], flush=carry)
    run_until(traffic)

    assert most[0] == 31


def test_window_bounds_what_is_under_way(loop: Loop) -> None:
    traffic = Traffic([Flow(loop.tx, loop.rx, HEADER)], window=5, flush=lambda: None)

    run_until(traffic, 1, "in_flight")
    traffic.run(0.001)

    assert traffic.counters(0)["in_flight"] == 5


def test_flipped_byte_is_corrupted_once_and_nothing_lost(loop: Loop) -> None:
    traffic = Traffic([Flow(loop.tx, loop.rx, HEADER)], flush=loop.carry)
    traffic.flip(0)

    run_until(traffic)

    assert traffic.drain(1)
    result = report(traffic, [0], 0.01)
    assert (result.corrupted, result.lost, result.reordered) == (1, 0, 0)
    assert not result.clean


def test_skipped_number_is_lost_once(loop: Loop) -> None:
    traffic = Traffic([Flow(loop.tx, loop.rx, HEADER)], flush=loop.carry)
    traffic.skip(0)

    run_until(traffic)

    assert traffic.drain(1)
    result = report(traffic, [0], 0.01)
    assert (result.corrupted, result.lost, result.reordered) == (0, 1, 0)


@pytest.mark.parametrize("byte", [0, 13, 30, 45, 55, 59, 62, 64, 200, 511, 512, 1499])
def test_damage_at_any_byte_is_seen(loop: Loop, byte: int) -> None:
    damaged = [False]

    def carry() -> None:
        for frame in loop.tx_model.take(loop.tx.tail):
            data = bytearray(frame.data)
            if not damaged[0]:
                data[byte] ^= 0x40
                damaged[0] = True
            loop.rx_model.put(loop.rx.tail, bytes(data))

    traffic = run(loop, carry, (1500, 1500))

    assert traffic.counters(0)["corrupted"] == 1


def test_cut_frame_is_seen(loop: Loop) -> None:
    def carry() -> None:
        for frame in loop.tx_model.take(loop.tx.tail):
            loop.rx_model.put(loop.rx.tail, frame.data[:-1])

    traffic = run(loop, carry, (1500, 1500))

    counters = traffic.counters(0)
    assert counters["corrupted"] > 0
    assert counters["corrupted"] == counters["received"]


def test_frames_dropped_by_the_device_are_lost(loop: Loop) -> None:
    rng = random.Random(5)
    dropped = [0]

    def carry() -> None:
        for frame in loop.tx_model.take(loop.tx.tail):
            if rng.random() < 0.1:
                dropped[0] += 1
            else:
                loop.rx_model.put(loop.rx.tail, frame.data)

    traffic = run(loop, carry)

    result = report(traffic, [0], 0.02)
    assert dropped[0] > 0
    assert result.lost == dropped[0]


def test_swapped_frames_are_reordered_not_lost(loop: Loop) -> None:
    swapped = [False]

    def carry() -> None:
        frames = [frame.data for frame in loop.tx_model.take(loop.tx.tail)]
        if len(frames) > 3 and not swapped[0]:
            frames[1], frames[2] = frames[2], frames[1]
            swapped[0] = True
        for data in frames:
            loop.rx_model.put(loop.rx.tail, data)

    traffic = run(loop, carry)

    assert traffic.drain(1)
    result = report(traffic, [0], 0.02)
    assert (result.reordered, result.lost, result.corrupted) == (1, 0, 0)


def test_frame_in_the_wrong_queue_is_misdirected(memory: DmaMemory) -> None:
    loops = [make_loop(memory), make_loop(memory)]
    flows = [Flow(loop.tx, loop.rx, HEADER) for loop in loops]

    def carry() -> None:
        for loop, other in (loops, loops[::-1]):
            for frame in loop.tx_model.take(loop.tx.tail):
                other.rx_model.put(other.rx.tail, frame.data)

    traffic = Traffic(flows, flush=carry)
    run_until(traffic)

    counters = traffic.counters(0)
    assert counters["misdirected"] == counters["received"] >= ENOUGH


def test_foreign_frames_count_as_corrupted(loop: Loop) -> None:
    def carry() -> None:
        loop.carry()
        loop.rx_model.put(loop.rx.tail, bytes(60))
        loop.rx_model.put(loop.rx.tail, bytes(100))

    traffic = run(loop, carry)

    assert traffic.counters(0)["corrupted"] > 2


def test_error_bits_of_the_device_count_as_corrupted(loop: Loop) -> None:
    def carry() -> None:
        for frame in loop.tx_model.take(loop.tx.tail):
            loop.rx_model.put(loop.rx.tail, frame.data, bits=1 << 19)

    counters = run(loop, carry).counters(0)

    assert counters["corrupted"] == counters["received"] > 0


def test_resync_forgets_what_a_reset_dropped(loop: Loop) -> None:
    traffic = Traffic([Flow(loop.tx, loop.rx, HEADER)], flush=lambda: None)
    run_until(traffic, 1, "in_flight")

    traffic.resync()

    assert traffic.counters(0)["in_flight"] == 0


@pytest.mark.parametrize("size", [(63, 64), (100, 99), (64, 9729)])
def test_sizes_out_of_range_are_refused(loop: Loop, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        Traffic([Flow(loop.tx, loop.rx, HEADER, *size)])


def test_toeplitz_matches_the_published_vector() -> None:
    data = bytes([66, 9, 149, 187, 161, 142, 100, 80]) + bytes.fromhex("0aea06e6")

    assert toeplitz(RSS_KEY, data) == 0x51CCC178


@pytest.mark.parametrize("queue", range(4))
def test_steer_chooses_a_port_of_the_queue(queue: int) -> None:
    lut = bytes(i % 4 for i in range(64))

    header = steer(RSS_KEY, lut, HEADER, queue)

    assert lut[toeplitz(RSS_KEY, header[26:38]) % 64] == queue
    assert header[:34] == HEADER[:34]


def test_steer_to_a_queue_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="queue 5"):
        steer(RSS_KEY, bytes(64), HEADER, 5)


def test_buckets_grow_without_gap() -> None:
    edges = [bucket_ns(bucket) for bucket in range(800)]

    assert edges[:17] == list(range(17))
    assert all(low < high <= low * 1.07 + 1 for low, high in pairwise(edges))


def test_percentiles_of_a_known_histogram() -> None:
    histogram = np.zeros(1024, dtype=np.uint64)
    histogram[5] = 90
    histogram[40] = 10

    assert percentiles(histogram, (0.5, 0.99)) == [5.0, float(bucket_ns(40))]
