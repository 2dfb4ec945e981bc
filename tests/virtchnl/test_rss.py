"""Key, LUT, packet classes and hash function."""

import pytest

from emuiavf.emudev.info import RssConfig
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Op, Status
from tests.fakes.vf import FakeVf

KEY = bytes(range(52))
SUPPORTED = 0x7F9F_E000_0000  # bits 29..36 and 39..46


def last(vf: FakeVf) -> RssConfig:
    config: RssConfig = vf.datapath.last("set_rss")
    return config


def test_default_sends_everything_to_queue_0_with_all_classes_hashed() -> None:
    assert last(FakeVf()) == RssConfig(KEY, bytes(64), SUPPORTED)


def test_key_reaches_the_data_path_before_any_queue_exists() -> None:
    vf = FakeVf().bring_up()
    assert vf.status(Op.CONFIG_RSS_KEY, m.RssKey(1), b"k" * 52) == Status.SUCCESS
    assert vf.datapath.calls == [("set_rss", RssConfig(b"k" * 52, bytes(64), SUPPORTED))]


def test_lut_reaches_the_data_path_before_any_queue_exists() -> None:
    vf = FakeVf().bring_up()
    lut = bytes(i % 4 for i in range(64))
    assert vf.status(Op.CONFIG_RSS_LUT, m.RssLut(1), lut) == Status.SUCCESS
    assert vf.datapath.calls == [("set_rss", RssConfig(KEY, lut, SUPPORTED))]


def test_lut_may_name_queues_that_do_not_exist() -> None:
    vf = FakeVf().bring_up()
    assert vf.status(Op.CONFIG_RSS_LUT, m.RssLut(1), b"\xff" * 64) == Status.SUCCESS


@pytest.mark.parametrize("size", [1, 40, 51, 53, 64])
def test_key_of_another_size_is_refused(size: int) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert vf.status(Op.CONFIG_RSS_KEY, m.RssKey(1), bytes(size)) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.parametrize("size", [1, 63, 65, 128, 512])
def test_lut_of_another_size_is_refused(size: int) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert vf.status(Op.CONFIG_RSS_LUT, m.RssLut(1), bytes(size)) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_hena_caps_name_the_ip_classes() -> None:
    body = FakeVf().bring_up().send(Op.GET_RSS_HENA_CAPS).body
    assert body == bytes.fromhex("000000e09f7f0000")


@pytest.mark.parametrize(
    ("sent", "used"),
    [(0, 0), (1 << 33, 1 << 33), (0xFFFF_FFFF_FFFF_FFFF, SUPPORTED), (1 << 63, 0)],
)
def test_hena_is_set_without_classes_we_do_not_know(sent: int, used: int) -> None:
    vf = FakeVf().bring_up()
    assert vf.status(Op.SET_RSS_HENA, m.RssHena(sent)) == Status.SUCCESS
    assert vf.session.vf.config.rss.hena == used


@pytest.mark.parametrize(
    ("algorithm", "symmetric"), [(0, False), (1, False), (2, True), (3, False), (99, False)]
)
def test_hash_function_is_symmetric_toeplitz_or_plain(algorithm: int, symmetric: bool) -> None:
    vf = FakeVf().bring_up()
    assert vf.status(Op.CONFIG_RSS_HFUNC, m.RssHfunc(1, algorithm)) == Status.SUCCESS
    assert vf.session.vf.config.rss.symmetric is symmetric


@pytest.mark.parametrize(
    ("op", "head", "items"),
    [
        (Op.CONFIG_RSS_KEY, m.RssKey(2), bytes(52)),
        (Op.CONFIG_RSS_LUT, m.RssLut(0), bytes(64)),
        (Op.CONFIG_RSS_HFUNC, m.RssHfunc(2, 2), b""),
    ],
)
def test_message_for_another_vsi_is_refused(op: Op, head: m.RssKey, items: bytes) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert vf.status(op, head, items) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_setting_what_is_set_does_not_bother_the_data_path() -> None:
    vf = FakeVf().bring_up()
    vf.send(Op.CONFIG_RSS_LUT, m.RssLut(1), bytes(64))
    assert vf.datapath.calls == []


def test_reset_returns_to_the_default() -> None:
    vf = FakeVf().bring_up()
    vf.send(Op.CONFIG_RSS_KEY, m.RssKey(1), bytes(52))
    vf.send(Op.SET_RSS_HENA, m.RssHena(0))
    vf.session.reset()
    assert last(vf) == RssConfig(KEY, bytes(64), SUPPORTED)
