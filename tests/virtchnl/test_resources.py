"""VERSION, GET_VF_RESOURCES, RESET_VF, REQUEST_QUEUES: what is granted, kept and forgotten."""

import pytest

from emuiavf.policy import VfPolicy
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from emuiavf.virtchnl.session import Reply, ResetRequest
from emuiavf.virtchnl.state import VfLimits, VfState
from tests.fakes.vf import ALL_CAPS, MAC, OTHER_MAC, FakeVf, pair

RESET_IMPENDING = bytes.fromhex("02000000 00000000 00 000000 ff000000")

# Capability bits that each driver asks for, and which of them it gets.
REQUESTED = {
    "linux 6.1": (
        (0, 3, 4, 5, 6, 7, 15, 16, 18, 19, 20, 21, 23, 25, 27, 28),
        (0, 5, 6, 7, 15, 18, 19, 20, 21, 25, 27, 28),
    ),
    "dpdk 22.11": (
        (0, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 19, 26, 27, 28, 29, 31),
        (0, 5, 6, 7, 9, 10, 15, 17, 19, 26, 27, 28, 29, 31),
    ),
    "ipxe": ((0, 6), (0, 6)),
    "vpp avf": ((0, 5, 7, 15, 16, 17, 19, 27, 28), (0, 5, 7, 15, 17, 19, 27, 28)),
    "freebsd": ((0, 7, 16, 19), (0, 7, 16, 19)),
}


@pytest.mark.parametrize(
    ("sent", "answered"),
    [((1, 1), (1, 1)), ((1, 0), (1, 0)), ((1, 2), (1, 1)), ((2, 0), (1, 1)), ((0, 0), (1, 1))],
)
@pytest.mark.trap(12)
def test_version_answers_1_1_and_1_0_to_a_1_0_vf(
    sent: tuple[int, int], answered: tuple[int, int]
) -> None:
    assert FakeVf().send(Op.VERSION, m.Version(*sent)).body == m.Version(*answered).encode()


@pytest.mark.trap(12)
def test_version_is_remembered_over_a_reset() -> None:
    vf = FakeVf()
    vf.send(Op.VERSION, m.Version(1, 0))
    vf.post(Op.RESET_VF)
    vf.session.reset()
    assert vf.session.handle(Op.GET_VF_RESOURCES, b"")[0].status == Status.SUCCESS  # type: ignore[union-attr]


@pytest.mark.trap(13, 14)
def test_resources_of_a_1_1_vf_byte_for_byte() -> None:
    body = FakeVf().bring_up().send(Op.GET_VF_RESOURCES, m.CapRequest(ALL_CAPS)).body
    assert body == bytes.fromhex(
        "0100 0400 1100 0026 e18e3ebe 34000000 40000000 0100 0400 06000000 0000 525400123456"
    )


def test_traps_13_and_14_one_sriov_vsi_with_the_rss_sizes_of_ice() -> None:
    got = FakeVf().bring_up().resources()
    assert (got.num_vsis, got.vsi_id, got.vsi_type) == (1, 1, 6)
    assert (got.rss_key_size, got.rss_lut_size, got.max_mtu) == (52, 64, 9728)


@pytest.mark.trap(16)
def test_default_mac_is_the_one_of_the_policy() -> None:
    assert FakeVf(VfPolicy(mac=OTHER_MAC)).bring_up().resources().default_mac_addr == OTHER_MAC


@pytest.mark.trap(34)
def test_max_vectors_is_the_size_of_the_msix_table() -> None:
    assert FakeVf(limits=VfLimits(2, 4, 5)).bring_up().resources().max_vectors == 5


@pytest.mark.parametrize("driver", REQUESTED)
def test_capabilities_are_what_was_asked_and_can_be_had(driver: str) -> None:
    asked, granted = (sum(1 << bit for bit in bits) for bits in REQUESTED[driver])
    assert FakeVf().bring_up().resources(asked).vf_cap_flags == granted


@pytest.mark.parametrize("bit", range(32))
def test_capability_not_asked_for_is_not_granted(bit: int) -> None:
    assert FakeVf().bring_up().resources(ALL_CAPS & ~(1 << bit)).vf_cap_flags & 1 << bit == 0


def test_1_0_vf_sends_no_capabilities_and_gets_l2() -> None:
    vf = FakeVf()
    vf.send(Op.VERSION, m.Version(1, 0))
    answer = vf.send(Op.GET_VF_RESOURCES)
    assert m.VfResources.decode(answer.body).vf_cap_flags == Cap.L2


def test_1_0_vf_with_capabilities_is_refused() -> None:
    vf = FakeVf()
    vf.send(Op.VERSION, m.Version(1, 0))
    assert vf.status(Op.GET_VF_RESOURCES, m.CapRequest(1)) == Status.ERR_PARAM


def test_1_1_vf_without_capabilities_is_refused() -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert vf.status(Op.GET_VF_RESOURCES) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_second_get_vf_resources_answers_alike_and_leaves_queues_running() -> None:
    vf = FakeVf().bring_up().configure(0)
    vf.send(Op.ENABLE_QUEUES, m.QueueSelect(1, 1, 1))
    calls = list(vf.datapath.calls)
    first = vf.resources()
    assert vf.resources() == first
    assert vf.datapath.calls == calls


@pytest.mark.parametrize("caps", [0, 1, 0x5555_5555, 0xAAAA_AAAA, ALL_CAPS])
@pytest.mark.trap(15)
def test_get_vf_resources_succeeds_in_every_state_whatever_is_asked(caps: int) -> None:
    vf = FakeVf()
    request = m.CapRequest(caps)
    statuses = [vf.status(Op.GET_VF_RESOURCES, request) for _ in range(2)]
    vf.send(Op.VERSION, m.Version(1, 1))
    statuses.append(vf.status(Op.GET_VF_RESOURCES, request))
    vf.session.reset()
    statuses.append(vf.status(Op.GET_VF_RESOURCES, request))
    assert statuses == [Status.SUCCESS] * 4


def test_second_get_vf_resources_replaces_the_capabilities() -> None:
    vf = FakeVf().bring_up()
    vf.resources(Cap.L2)
    assert vf.status(Op.SET_RSS_HENA, m.RssHena(0)) == Status.NOT_SUPPORTED


def test_more_than_16_pairs_are_not_given_without_the_large_capability() -> None:
    vf = FakeVf(limits=VfLimits(32, 64, 65)).bring_up(ALL_CAPS & ~Cap.LARGE_NUM_QPAIRS)
    got = vf.resources(ALL_CAPS & ~Cap.LARGE_NUM_QPAIRS)
    assert (got.num_queue_pairs, got.vsi_num_queue_pairs, got.rss_lut_size) == (16, 16, 64)
    assert vf.send(Op.REQUEST_QUEUES, m.QueueRequest(17)).body == b"\x10\x00"


def test_large_capability_gives_all_pairs_and_a_larger_table() -> None:
    got = FakeVf(limits=VfLimits(64, 256, 65)).bring_up().resources(Cap.L2 | Cap.LARGE_NUM_QPAIRS)
    assert got.vf_cap_flags == Cap.L2 | Cap.LARGE_NUM_QPAIRS
    assert (got.num_queue_pairs, got.vsi_num_queue_pairs, got.rss_lut_size) == (64, 64, 512)
    assert got.max_vectors == 65


@pytest.mark.parametrize(("most", "granted"), [(16, False), (17, True)])
def test_large_capability_is_of_devices_with_more_than_16_pairs(most: int, granted: bool) -> None:
    vf = FakeVf(limits=VfLimits(4, most, 17)).bring_up()
    assert (Cap.LARGE_NUM_QPAIRS in Cap(vf.resources().vf_cap_flags)) is granted


def test_256_pairs_can_be_requested_and_given_back() -> None:
    vf = FakeVf(limits=VfLimits(4, 256, 65)).bring_up()
    for pairs, table in ((256, 512), (16, 64), (17, 512), (1, 64)):
        assert vf.post(Op.REQUEST_QUEUES, m.QueueRequest(pairs))[0] == ResetRequest(
            Op.REQUEST_QUEUES, pairs
        )
        vf.session.reset()
        assert vf.session.num_queue_pairs == pairs
        got = vf.resources()
        assert (got.num_queue_pairs, got.rss_lut_size) == (pairs, table)


def test_a_driver_that_cannot_name_them_gets_16_of_those_that_one_before_it_had() -> None:
    vf = FakeVf(limits=VfLimits(4, 256, 65)).bring_up()
    vf.post(Op.REQUEST_QUEUES, m.QueueRequest(256))
    vf.session.reset()
    assert vf.resources(Cap.L2 | Cap.RSS_PF).num_queue_pairs == 16
    assert vf.status(Op.CONFIG_RSS_LUT, m.RssLut(1), bytes(64)) == Status.SUCCESS
    assert vf.status(Op.CONFIG_RSS_LUT, m.RssLut(1), bytes(512)) == Status.ERR_PARAM
    sixteen, more = pair(15), pair(16)
    assert vf.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), [sixteen]) == Status.SUCCESS
    assert vf.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), [more]) == Status.ERR_PARAM


@pytest.mark.parametrize("pairs", [1, 4, 8])
@pytest.mark.trap(18)
def test_request_queues_gives_notice_and_resets_even_for_the_same_number(
    pairs: int,
) -> None:
    vf = FakeVf().bring_up()
    posted = vf.post(Op.REQUEST_QUEUES, m.QueueRequest(pairs))
    assert posted == [
        ResetRequest(Op.REQUEST_QUEUES, pairs),
        Reply(Op.EVENT, body=RESET_IMPENDING),
    ]


def test_request_queues_counts_after_the_reset_and_survives_others() -> None:
    vf = FakeVf().bring_up()
    vf.post(Op.REQUEST_QUEUES, m.QueueRequest(7))
    vf.session.reset()
    vf.session.reset()
    got = vf.resources()
    assert (got.num_queue_pairs, got.vsi_num_queue_pairs, got.max_vectors) == (7, 7, 17)


@pytest.mark.parametrize(("asked", "answered"), [(0, 0), (33, 32), (65535, 32)])
def test_request_queues_that_cannot_be_had_answers_what_can(asked: int, answered: int) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    posted = vf.post(Op.REQUEST_QUEUES, m.QueueRequest(asked))
    assert posted == [Reply(Op.REQUEST_QUEUES, body=m.QueueRequest(answered).encode())]
    assert vf.snapshot() == before


@pytest.mark.trap(19)
def test_request_queues_before_version_is_refused_without_a_reset() -> None:
    vf = FakeVf()
    posted = vf.post(Op.REQUEST_QUEUES, m.QueueRequest(1))
    assert posted == [Reply(Op.REQUEST_QUEUES, Status.NOT_SUPPORTED)]
    assert vf.session.vf.state is VfState.INITIAL


def test_reset_stops_the_data_path_first_then_gives_it_the_defaults() -> None:
    vf = FakeVf().bring_up().configure(0)
    vf.send(Op.ENABLE_QUEUES, m.QueueSelect(1, 1, 1))
    vf.datapath.calls.clear()
    vf.session.reset()
    assert vf.datapath.names() == [
        "reset",
        "set_rx_filter",
        "set_rss",
        "set_flows",
        "set_vlan_offload",
        "set_tx_shaping",
    ]


def test_reset_forgets_all_that_messages_configured() -> None:
    vf = FakeVf()
    fresh = vf.session.vf.config
    vf.bring_up().configure(0)
    vf.send(Op.ENABLE_QUEUES, m.QueueSelect(1, 1, 1))
    vf.send(Op.CONFIG_IRQ_MAP, m.IrqMap(), [m.VectorEntry(1, 1, 1, 1, 0, 1)])
    vf.send(Op.ADD_ETH_ADDR, m.EtherAddrList(1), [m.EtherAddr(OTHER_MAC, 2)])
    vf.send(Op.ADD_VLAN_V2, m.VlanFilterList(1), [m.VlanFilter(5, 0, 0x8100)])
    vf.send(Op.ENABLE_VLAN_STRIPPING_V2, m.VlanSetting(0, 1, 1))
    vf.send(Op.CONFIG_PROMISCUOUS_MODE, m.PromiscInfo(1, 3))
    vf.send(Op.CONFIG_RSS_LUT, m.RssLut(1), bytes([1] * 64))
    vf.send(Op.CONFIG_RSS_KEY, m.RssKey(1), bytes(52))
    vf.send(Op.SET_RSS_HENA, m.RssHena(0))
    assert vf.session.vf.config != fresh
    vf.session.reset()
    assert vf.session.vf.config == fresh


def test_restart_forgets_even_what_a_reset_keeps() -> None:
    vf = FakeVf().bring_up()
    vf.send(Op.ADD_ETH_ADDR, m.EtherAddrList(1), [m.EtherAddr(OTHER_MAC, 1)])
    vf.post(Op.REQUEST_QUEUES, m.QueueRequest(1))
    vf.session.restart()
    assert (vf.session.mac, vf.session.num_queue_pairs) == (MAC, 4)
    assert vf.session.vf.version is None
    assert vf.session.vf.state is VfState.INITIAL


def test_vlan_of_version_1_is_granted_to_those_who_do_not_ask_for_version_2() -> None:
    vf = FakeVf().bring_up()
    both, v2 = Cap.VLAN | Cap.VLAN_V2, Cap.VLAN_V2
    assert vf.resources(both).vf_cap_flags == v2
    assert vf.resources(v2).vf_cap_flags == v2
    assert vf.resources(Cap.VLAN).vf_cap_flags == Cap.VLAN


def test_capability_that_is_not_offered_is_not_granted() -> None:
    limits = VfLimits(4, 8, 17, offered=Cap.L2 | Cap.VLAN)
    vf = FakeVf(limits=limits).bring_up()
    assert vf.resources().vf_cap_flags == Cap.L2 | Cap.VLAN
    assert vf.status(Op.GET_OFFLOAD_VLAN_V2_CAPS) == Status.NOT_SUPPORTED
    assert vf.status(Op.ADD_VLAN, m.VlanIdList(1), [m.VlanId(5)]) == Status.SUCCESS


# What the host has decided


def test_port_vlan_hides_everything_about_tags() -> None:
    hidden = Cap.VLAN | Cap.VLAN_V2
    plain, behind = FakeVf().bring_up(), FakeVf(VfPolicy(port_vlan=5)).bring_up()
    assert plain.resources().vf_cap_flags & ~behind.resources().vf_cap_flags == Cap.VLAN_V2
    assert behind.resources(ALL_CAPS & ~Cap.VLAN_V2).vf_cap_flags & hidden == 0
    assert behind.status(Op.GET_OFFLOAD_VLAN_V2_CAPS) == Status.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("policy", "frame"),
    [
        (VfPolicy(), 9728),
        (VfPolicy(mtu=1500), 1526),
        (VfPolicy(port_vlan=5), 9724),
        (VfPolicy(mtu=1500, port_vlan=5), 1522),
    ],
)
def test_largest_frame_is_what_the_host_allows(policy: VfPolicy, frame: int) -> None:
    vf = FakeVf(policy).bring_up()
    assert vf.resources().max_mtu == frame
    longest = 9724 if policy.port_vlan else 9728
    for size in (frame - 1, frame, min(frame + 1, longest), longest):
        pairs = [pair(0, rx_max_pkt_size=size)]
        assert vf.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), pairs) == Status.SUCCESS
        assert vf.datapath.last("configure_rx").max_pkt_size == min(size, frame)
    pairs = [pair(0, rx_max_pkt_size=longest + 1)]
    assert vf.status(Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), pairs) == Status.ERR_PARAM
