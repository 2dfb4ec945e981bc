"""1588_PTP_GET_CAPS in both layouts, 1588_PTP_GET_TIME, and queues whose frames are stamped."""

import random

import pytest

from emuiavf._rxdid import Rxdid
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, PtpCap, Status
from emuiavf.virtchnl.session import Reply, VfLimits
from tests.fakes.vf import ALL_CAPS, FakeVf, pair

BOTH = PtpCap.RX_TSTAMP | PtpCap.READ_PHC
FLAG = 1


def granted(vf: FakeVf, request: bytes) -> tuple[int, int]:
    """What is read by Linux and by DPDK."""
    (answer,) = vf.session.handle(Op.PTP_GET_CAPS, request)
    assert isinstance(answer, Reply)
    assert (answer.status, len(answer.body)) == (Status.SUCCESS, 48)
    linux, dpdk = answer.body[:4], answer.body[24:28]
    assert answer.body == linux + bytes(20) + dpdk + bytes(20)
    return int.from_bytes(linux, "little"), int.from_bytes(dpdk, "little")


@pytest.mark.parametrize("at", [0, 24], ids=["linux", "dpdk"])
@pytest.mark.parametrize("wanted", range(8))
def test_caps_are_those_wanted_in_either_layout(at: int, wanted: int) -> None:
    request = (bytes(at) + wanted.to_bytes(4, "little")).ljust(48, b"\0")
    assert granted(FakeVf().bring_up(), request) == (wanted & BOTH, wanted & BOTH)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.trap(35)
def test_garbage_around_the_bits_grants_nothing_else(seed: int) -> None:
    source = random.Random(seed)
    request = bytearray(source.randbytes(48))
    request[24:28] = BOTH.to_bytes(4, "little")
    vf = FakeVf().bring_up()
    assert granted(vf, bytes(request)) == (BOTH, BOTH)
    assert granted(vf, bytes([0xFF] * 48)) == (BOTH, BOTH)
    assert granted(vf, bytes(48)) == (0, 0)


def test_stamps_are_not_offered_without_flexible_descriptors() -> None:
    vf = FakeVf().bring_up(ALL_CAPS & ~Cap.RX_FLEX_DESC)
    assert granted(vf, b"\xff" * 48) == (PtpCap.READ_PHC, PtpCap.READ_PHC)


@pytest.mark.parametrize("request_body", [bytes(16), b"\xff" * 16])
@pytest.mark.trap(35)
def test_time_is_told_whatever_is_asked(request_body: bytes) -> None:
    vf = FakeVf().bring_up()
    vf.datapath.phc = 0x0123_4567_89AB_CDEF
    assert vf.session.handle(Op.PTP_GET_TIME, request_body) == [
        Reply(Op.PTP_GET_TIME, Status.SUCCESS, bytes.fromhex("efcdab8967452301") + bytes(8))
    ]


@pytest.mark.parametrize("op", [Op.PTP_GET_CAPS, Op.PTP_GET_TIME, *range(62, 66)])
def test_without_the_capability_and_beyond_it_nothing_is_served(op: int) -> None:
    without = FakeVf(limits=VfLimits(4, 8, 17, offered=~Cap.PTP)).bring_up()
    assert not without.resources().vf_cap_flags & Cap.PTP
    size = {60: 48, 61: 16}.get(op, 64)
    assert without.session.handle(op, bytes(size)) == [Reply(op, Status.NOT_SUPPORTED)]
    if op > 61:  # SET_TIME, ADJ_TIME, ADJ_FREQ, TX_TIMESTAMP
        vf = FakeVf().bring_up()
        assert vf.session.handle(op, bytes(size)) == [Reply(op, Status.NOT_SUPPORTED)]


@pytest.mark.parametrize("missing", [Cap.NONE, Cap.PTP, Cap.RX_FLEX_DESC])
@pytest.mark.parametrize("flags", [0, FLAG, 0xFE, 0xFF])
def test_queue_is_stamped_when_asked_and_granted(missing: Cap, flags: int) -> None:
    vf = FakeVf().bring_up(ALL_CAPS & ~missing)
    pairs = [pair(0, rx_rxdid=Rxdid.FLEX_NIC, rx_flags=flags)]
    assert vf.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), pairs) == Status.SUCCESS
    expected = bool(flags & FLAG) and missing is Cap.NONE
    assert vf.datapath.last("configure_rx").timestamps is expected


def test_queue_that_is_configured_anew_without_the_flag_is_not_stamped() -> None:
    vf = FakeVf().bring_up()
    for flags in (FLAG, 0):
        pairs = [pair(0, rx_rxdid=Rxdid.FLEX_OVS, rx_flags=flags)]
        assert vf.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), pairs) == Status.SUCCESS
        assert vf.datapath.last("configure_rx").timestamps is bool(flags)
