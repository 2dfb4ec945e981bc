"""Our own driver on a running device: the PTP clock, stamped frames, words of their headers."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from emuiavf._rxdid import Rxdid
from emuiavf.guest.channel import RequestRefused
from emuiavf.guest.driver import VfDriver
from emuiavf.virtchnl.ops import PtpCap
from tests.guest.test_e2e import MACS, Bench, receive

FRAME = bytes(Ether(src=MACS[0], dst=MACS[1]) / IP(ttl=5) / TCP(flags="SA"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, folder: Path, **how: object) -> tuple[VfDriver, VfDriver]:
    bench = Bench(folder, stack)
    sender, receiver = bench.driver(0), bench.driver(1)
    sender.start()
    receiver.start(**how)  # type: ignore[arg-type]
    return sender, receiver


@pytest.mark.parametrize("rxdid", [Rxdid.FLEX_NIC, Rxdid.FLEX_OVS], ids=lambda rxdid: rxdid.name)
def test_stamps_are_of_the_clock_that_is_read(
    stack: ExitStack, tmp_path: Path, rxdid: Rxdid
) -> None:
    sender, receiver = start(stack, tmp_path, rxdid=rxdid, timestamps=True)
    assert receiver.ptp_caps() == PtpCap.RX_TSTAMP | PtpCap.READ_PHC
    before = receiver.phc_ns()
    sender.queues[0].send([FRAME, FRAME])
    first, second = receive(receiver, 2)
    # Any VF of the process may be asked: there is one clock.
    after = sender.phc_ns()
    assert before < after < before + (1 << 32)
    for frame in (first, second):
        assert frame.time is not None
        assert (frame.time - before) & 0xFFFF_FFFF <= after - before
    assert (first.words, first.mark) == ((None, None), None)


def test_words_of_headers_are_told(stack: ExitStack, tmp_path: Path) -> None:
    sender, receiver = start(stack, tmp_path, rxdid=Rxdid.FLEX_TCP)
    sender.queues[0].send([FRAME])
    (frame,) = receive(receiver, 1)
    assert (frame.words, frame.time, frame.data) == ((0x5012, None), None, FRAME)


def test_clock_that_is_not_offered_cannot_be_read(stack: ExitStack, tmp_path: Path) -> None:
    bench = Bench(tmp_path, stack, options=",caps=-ptp")
    vf = bench.driver(0)
    with pytest.raises(RequestRefused, match="PTP_GET_CAPS"):
        vf.ptp_caps()
    with pytest.raises(RequestRefused, match="PTP_GET_TIME"):
        vf.phc_ns()
    vf.start(rxdid=Rxdid.FLEX_NIC, timestamps=True)
    sender = bench.driver(1)
    sender.start()
    sender.queues[0].send([bytes(Ether(src=MACS[1], dst=MACS[0]) / IP() / TCP())])
    (frame,) = receive(vf, 1)
    assert frame.time is None
