"""What a guest imposes on its own Tx rings: a rate for each, and how long its turns are."""

import pytest

from tests.wire import DISCARDS, MS, TX_BYTES, Wire


def shares(wire: Wire, duration_ns: int, step_ns: int) -> list[float]:
    """Mb/s of each queue in that time."""
    before = wire.sender.rows[wire.queues :, TX_BYTES].copy()
    wire.run(duration_ns, step_ns)
    sent = wire.sender.rows[wire.queues :, TX_BYTES] - before
    return [float(count) * 8 * 1000 / duration_ns for count in sent]


@pytest.mark.parametrize(
    ("kbps", "size", "duration_ns", "step_ns"),
    [
        (500, 1514, 3000 * MS, 200_000),
        (500, 64, 1000 * MS, 100_000),
        (10_000, 1514, 500 * MS, 100_000),
        (99_999, 1514, 500 * MS, 100_000),
        (1_000_000, 1514, 50 * MS, 20_000),
        (10_000_000, 9000, 50 * MS, 20_000),
        (40_000_000, 1514, 10 * MS, 2_000),
    ],
)
def test_queue_is_held_to_its_rate(kbps: int, size: int, duration_ns: int, step_ns: int) -> None:
    wire = Wire(0, size)
    wire.shape({0: kbps})
    wire.run(duration_ns // 10, step_ns)
    (rate,) = shares(wire, duration_ns, step_ns)
    assert rate == pytest.approx(kbps / 1000, rel=0.05)
    assert wire.sink.rows[0, DISCARDS] == 0
    assert wire.sender.rows[wire.queues, DISCARDS] == 0


def test_each_queue_has_its_own_rate_and_others_have_none() -> None:
    wire = Wire(0, 1514, queues=3, ring_len=64)
    wire.shape({0: 100_000, 1: 300_000})
    slow, faster, free = shares(wire, 100 * MS, 100_000)
    assert [slow, faster] == pytest.approx([100, 300], rel=0.05)
    # A whole burst each turn.
    assert free == pytest.approx(32 * 1514 * 8 / 100, rel=0.001)


def test_limit_of_the_vf_is_over_those_of_its_queues() -> None:
    wire = Wire(400, 1514, queues=3, ring_len=64)
    wire.shape({0: 50_000, 1: 1_000_000})
    slow, high, free = shares(wire, 200 * MS, 20_000)
    assert slow == pytest.approx(50, rel=0.05)
    assert slow + high + free == pytest.approx(400, rel=0.05)
    # What the first leaves is shared by the others.
    assert min(high, free) > 0.75 * max(high, free)


def test_queue_that_has_used_up_its_own_rate_keeps_no_other_waiting() -> None:
    wire = Wire(400, 1514, queues=2, ring_len=64)
    wire.shape({0: 500})
    wire.run(50 * MS, 20_000)
    slow, free = shares(wire, 200 * MS, 20_000)
    assert slow == pytest.approx(0.5, abs=0.1)
    assert free == pytest.approx(399.5, rel=0.05)


def test_descriptors_are_not_reported_before_they_are_sent() -> None:
    wire = Wire(0, 1514, busy=0)
    wire.shape({0: 1_000})
    slots = [wire.sender.send(bytes(1514)) for _ in range(4)]
    reported = []
    for _ in range(60):
        wire.run(1 * MS, 1 * MS)
        done = [wire.sender.tx_done(slot) for slot in slots]
        assert sum(done) * 1514 == wire.sent()
        reported.append(sum(done))
    # 12 ms each, the first at once.
    assert reported[0] == 1
    assert reported[-1] == 4
    assert reported == sorted(reported)
    assert set(reported) == {1, 2, 3, 4}


def test_little_traffic_notices_nothing_of_a_limit() -> None:
    wire = Wire(0, 64, busy=0)
    wire.shape({0: 10_000})
    wire.now += 10 * MS
    for count in range(1, 11):
        slot = wire.sender.send(bytes(64))
        wire.now += 1 * MS
        wire.engine.step(1, wire.now)
        assert wire.sender.tx_done(slot)
        assert wire.sent() == 64 * count


def test_rates_come_and_go_under_traffic() -> None:
    wire = Wire(0, 1514)
    free = wire.run(10 * MS, 100_000)
    assert free == 100 * 32 * 1514
    wire.shape({0: 10_000})
    (slow,) = shares(wire, 200 * MS, 100_000)
    assert slow == pytest.approx(10, rel=0.05)
    wire.shape({})
    assert wire.run(10 * MS, 100_000) == free


def test_same_limits_again_forgive_nothing() -> None:
    """A guest cannot have more than its rate by asking for it again and again."""
    wire = Wire(0, 1514)
    wire.shape({0: 10_000})
    sent = 0
    for _ in range(200):
        wire.shape({0: 10_000})
        sent += wire.run(1 * MS, 100_000)
    assert sent * 8 * 1000 / (200 * MS) == pytest.approx(10, rel=0.06)


@pytest.mark.parametrize(
    ("quanta", "size", "frames"),
    [
        (256, 9000, 4),
        (512, 9000, 8),
        (1024, 9000, 15),
        (4096, 9000, 15),
        (256, 1514, 22),
        (512, 1514, 32),
    ],
)
def test_quanta_make_turns_shorter(quanta: int, size: int, frames: int) -> None:
    """The usual turn is 32 frames or 128 KiB, whichever is first; the last frame may be over it."""
    wire = Wire(0, size, queues=2, ring_len=64)
    wire.shape({}, {0: quanta})
    wire.refill()
    wire.engine.step(1, wire.now)
    usual = min(32, -(-131072 // size))
    assert wire.heads() == [frames, usual]


def test_quanta_and_a_rate_go_together() -> None:
    wire = Wire(0, 9000)
    wire.shape({0: 1_000_000}, {0: 256})
    (rate,) = shares(wire, 50 * MS, 20_000)
    assert rate == pytest.approx(1000, rel=0.05)


def test_rates_that_no_counter_holds_are_refused() -> None:
    wire = Wire(0, 64)
    with pytest.raises(ValueError, match="at most"):
        wire.sender.vf.set_rate(4_000_001)
    with pytest.raises(OverflowError):
        wire.shape({0: 1 << 32})
