"""GET_STATS: the data path's counters, in the order of the specification."""

import pytest

from emuiavf.emudev.info import EthStats
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Op, Status
from tests.fakes.vf import FakeVf


@pytest.mark.trap(33)
def test_counters_stand_in_the_order_of_the_96_byte_layout() -> None:
    vf = FakeVf().bring_up()
    vf.datapath.stats = EthStats(
        rx_bytes=1,
        rx_unicast=2,
        rx_multicast=3,
        rx_broadcast=4,
        rx_discards=5,
        rx_unknown_protocol=6,
        tx_bytes=7,
        tx_unicast=8,
        tx_multicast=9,
        tx_broadcast=10,
        tx_discards=11,
        tx_errors=(1 << 64) - 1,
    )
    expected = b"".join(i.to_bytes(8, "little") for i in range(1, 12)) + b"\xff" * 8
    assert vf.send(Op.GET_STATS, m.QueueSelect(1)).body == expected


@pytest.mark.trap(11)
def test_counters_are_answered_while_queues_are_disabled() -> None:
    vf = FakeVf().bring_up()
    assert vf.send(Op.GET_STATS, m.QueueSelect(1)).body == bytes(96)


def test_counters_are_asked_for_whatever_the_queue_bitmaps_say() -> None:
    vf = FakeVf().bring_up()
    assert vf.status(Op.GET_STATS, m.QueueSelect(1, 0xFFFF_FFFF, 0xFFFF_FFFF)) == Status.SUCCESS


def test_counters_of_another_vsi_are_refused() -> None:
    vf = FakeVf().bring_up()
    assert vf.status(Op.GET_STATS, m.QueueSelect(2)) == Status.ERR_PARAM
