"""Traffic classes, rates and turns of Tx queues."""

from dataclasses import replace

import pytest

from emuiavf.emudev.info import TxShaping
from emuiavf.layout import Wire
from emuiavf.policy import VfPolicy
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from tests.fakes.vf import POLICY, FakeVf

SHAPING = "set_tx_shaping"


def up(**policy: int) -> FakeVf:
    """A VF of four queue pairs, with rates of the host in Mb/s."""
    changed: VfPolicy = replace(POLICY, **policy)  # type: ignore[arg-type]
    return FakeVf(changed).bring_up()


def bandwidth(vf: FakeVf, *entries: m.QueueBw, vsi_id: int = 1) -> Status:
    return vf.status(Op.CONFIG_QUEUE_BW, m.QueueBwList(vsi_id), entries)


def peak(queue: int, kbps: int, *, committed: int = 0, tc: int = 0) -> m.QueueBw:
    return m.QueueBw(queue, tc, committed, kbps)


def quanta(vf: FakeVf, size: int, start: int = 0, count: int = 4, kind: int = 0) -> Status:
    return vf.status(Op.CONFIG_QUANTA, m.QuantaConfig(size, kind, start, count))


@pytest.mark.parametrize(
    ("min_rate", "max_rate", "rates"),
    [
        (0, 0, "0000000000000000"),
        (100, 0, "a086010000000000"),
        (0, 40_000, "00000000005a6202"),
        (100_000, 100_000, "00e1f50500e1f505"),
    ],
)
def test_capabilities_are_one_class_with_all_priorities_and_the_rates_of_the_host(
    min_rate: int, max_rate: int, rates: str
) -> None:
    body = up(min_rate=min_rate, max_rate=max_rate).send(Op.GET_QOS_CAPS).body
    assert body.hex() == "0100010000ff000000000000" + rates + "00" * 24


@pytest.mark.trap(17)
def test_dpdk_finds_room_for_the_answer_it_needs_at_start() -> None:
    """It copies up to eight classes and looks at as many as the header names."""
    answer = FakeVf().bring_up(Cap.L2 | Cap.QOS).send(Op.GET_QOS_CAPS)
    head = m.QosCapList.decode(answer.body)
    assert (answer.status, head.num_elem) == (Status.SUCCESS, 1)
    assert len(answer.body) == 4 + head.num_elem * 40


# The queue-to-TC map


def tc_map(vf: FakeVf, pairs: int, *classes: tuple[int, int], vsi_id: int = 1) -> Status:
    return vf.status(
        Op.CONFIG_QUEUE_TC_MAP,
        m.QueueTcMap(vsi_id, 0, pairs),
        [m.TcQueues(*tc) for tc in classes],
    )


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_map_is_answered_with_the_priorities_of_the_class(pairs: int) -> None:
    vf = up()
    answer = vf.send(Op.CONFIG_QUEUE_TC_MAP, m.QueueTcMap(1, 0, pairs), [m.TcQueues(0, pairs)])
    assert answer.status == Status.SUCCESS
    assert answer.body.hex() == f"01000100{pairs:02x}0000000000ff00"


@pytest.mark.parametrize(
    ("pairs", "classes", "vsi_id"),
    [
        (5, [(0, 5)], 1),
        (0xFFFF, [(0, 0xFFFF)], 1),
        (4, [(0, 3)], 1),
        (4, [(0, 5)], 1),
        (3, [(0, 4)], 1),
        (4, [(0, 2), (2, 2)], 1),
        (4, [(0, 0xFFFF), (0xFFFF, 5)], 1),
        (4, [(0, 4)], 2),
        (4, [(0, 4)], 0),
    ],
)
def test_map_that_does_not_fit_the_vf_is_refused(
    pairs: int, classes: list[tuple[int, int]], vsi_id: int
) -> None:
    assert tc_map(up(), pairs, *classes, vsi_id=vsi_id) == Status.ERR_PARAM


# Bandwidth


def test_peaks_reach_the_data_path_by_queue() -> None:
    vf = up()
    assert bandwidth(vf, peak(0, 10_000), peak(3, 500)) == Status.SUCCESS
    assert vf.datapath.calls == [(SHAPING, TxShaping({0: 10_000, 3: 500}))]


def test_queues_not_named_keep_their_rates() -> None:
    vf = up()
    bandwidth(vf, peak(0, 10_000), peak(1, 20_000))
    bandwidth(vf, peak(1, 30_000))
    assert vf.datapath.last(SHAPING) == TxShaping({0: 10_000, 1: 30_000})


def test_rate_of_zero_ends_the_limit() -> None:
    vf = up()
    bandwidth(vf, peak(0, 10_000), peak(1, 20_000))
    bandwidth(vf, peak(0, 0))
    assert vf.datapath.last(SHAPING) == TxShaping({1: 20_000})


def test_dpdk_names_queue_0_without_a_rate_for_queues_that_have_none() -> None:
    """testpmd with a shaper for queue 0 only: the entries of the others are all zeros."""
    vf = up()
    assert bandwidth(vf, peak(0, 10_000), peak(0, 0), peak(0, 0)) == Status.SUCCESS
    assert vf.datapath.last(SHAPING) == TxShaping({0: 10_000})


@pytest.mark.parametrize("rate", [500, 501, 99_999_999, 100_000_000])
def test_rate_in_the_limits_of_ice_is_accepted(rate: int) -> None:
    assert bandwidth(up(), peak(0, rate)) == Status.SUCCESS


HOSTILE = {
    "below the least rate": [peak(0, 499)],
    "one": [peak(0, 1)],
    "above the largest rate": [peak(0, 100_000_001)],
    "all ones": [peak(0, 0xFFFF_FFFF)],
    "queue beyond the VF": [peak(4, 10_000)],
    "queue 65535": [peak(0xFFFF, 10_000)],
    "class beyond the VF": [peak(0, 10_000, tc=1)],
    "class 255 and no rate": [peak(0, 0, tc=255)],
    "more entries than queues": [peak(0, 10_000)] * 5,
    "a full buffer": [peak(0, 10_000)] * 341,
    "good, then bad": [peak(0, 10_000), peak(1, 20_000), peak(2, 3)],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bandwidth_is_refused_as_a_whole(entries: list[m.QueueBw]) -> None:
    vf = up()
    before = vf.snapshot()
    assert bandwidth(vf, *entries) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_bandwidth_of_another_vsi_is_refused() -> None:
    assert bandwidth(up(), peak(0, 10_000), vsi_id=2) == Status.ERR_PARAM


@pytest.mark.parametrize(
    ("host", "entry", "status"),
    [
        ({"max_rate": 10}, peak(0, 10_000), Status.SUCCESS),
        ({"max_rate": 10}, peak(0, 10_001), Status.ERR_PARAM),
        ({"max_rate": 10}, peak(0, 0), Status.SUCCESS),
        ({"min_rate": 10}, peak(0, 0, committed=10_000), Status.SUCCESS),
        ({"min_rate": 10}, peak(0, 0, committed=9_999), Status.ERR_PARAM),
        ({"min_rate": 10}, peak(0, 5_000), Status.SUCCESS),
        ({}, peak(0, 0, committed=1), Status.SUCCESS),
    ],
)
def test_rates_have_to_fit_those_of_the_host(
    host: dict[str, int], entry: m.QueueBw, status: Status
) -> None:
    assert bandwidth(up(**host), entry) == status


# Quanta


@pytest.mark.parametrize("size", [256, 320, 1088, 4032, 4096])
def test_quanta_reach_the_data_path(size: int) -> None:
    vf = up()
    assert quanta(vf, size, 1, 2) == Status.SUCCESS
    assert vf.datapath.calls == [(SHAPING, TxShaping({}, {1: size, 2: size}))]


def test_linux_sends_the_default_and_nothing_changes() -> None:
    vf = up()
    assert quanta(vf, 1024) == Status.SUCCESS
    assert vf.datapath.calls == []


def test_default_ends_what_was_before() -> None:
    vf = up()
    quanta(vf, 256)
    quanta(vf, 1024, 1, 3)
    assert vf.datapath.last(SHAPING) == TxShaping({}, {0: 256})


def test_type_of_the_queues_is_not_looked_at_and_none_is_no_error() -> None:
    vf = up()
    assert [quanta(vf, 256, 4, 0), quanta(vf, 256, kind=-1)] == [Status.SUCCESS] * 2


@pytest.mark.parametrize("size", [0, 1, 64, 192, 255, 257, 300, 4095, 4097, 4160, 0xFFFF])
def test_size_that_is_no_quanta_is_refused(size: int) -> None:
    assert quanta(up(), size) == Status.ERR_PARAM


@pytest.mark.parametrize(
    ("start", "count"), [(0, 5), (4, 1), (1, 4), (0xFFFF, 1), (1, 0xFFFF), (0xFFFF, 0xFFFF)]
)
def test_queues_that_the_vf_has_not_are_refused(start: int, count: int) -> None:
    vf = up()
    before = vf.snapshot()
    assert quanta(vf, 256, start, count) == Status.ERR_PARAM
    assert vf.snapshot() == before


# Both


def test_rates_and_quanta_stand_side_by_side() -> None:
    vf = up()
    quanta(vf, 256, 0, 1)
    bandwidth(vf, peak(1, 500))
    assert vf.datapath.last(SHAPING) == TxShaping({1: 500}, {0: 256})


@pytest.mark.parametrize(
    "request_", [lambda vf: bandwidth(vf, peak(1, 500)), lambda vf: quanta(vf, 256)]
)
def test_same_again_does_not_disturb_the_data_path(request_) -> None:  # type: ignore[no-untyped-def]
    vf = up()
    request_(vf)
    before = len(vf.datapath.calls)
    assert request_(vf) == Status.SUCCESS
    assert len(vf.datapath.calls) == before


def test_queues_keep_their_rates_when_they_are_laid_out_anew() -> None:
    vf = up()
    bandwidth(vf, peak(0, 500))
    vf.configure(0, 1)
    assert vf.session.vf.config.tx_shaping == TxShaping({0: 500})


def test_reset_forgets_rates_and_quanta() -> None:
    vf = up()
    bandwidth(vf, peak(0, 500))
    quanta(vf, 256)
    vf.session.reset()
    assert vf.datapath.last(SHAPING) == TxShaping()


def test_wire_sizes_are_those_of_virtchnl() -> None:
    sizes: dict[type[Wire], int] = {
        m.QosCapList: 4,
        m.QosCap: 40,
        m.QueueTcMap: 8,
        m.TcQueues: 4,
        m.TcPriorities: 4,
        m.QueueBwList: 4,
        m.QueueBw: 12,
        m.QuantaConfig: 12,
    }
    assert {kind: kind.SIZE for kind in sizes} == sizes
