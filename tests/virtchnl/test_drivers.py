"""Whole conversations in the order in which real drivers hold them.

Each script is what the driver sends, byte for byte in its own habits where they differ: list
padding, ring sizes, buffer sizes, which fields it leaves at 0.  Every message must succeed.
"""

from collections.abc import Sequence

import pytest

from emuiavf.emudev.info import VlanOffload
from emuiavf.layout import Wire
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from emuiavf.virtchnl.session import Reply, ResetRequest
from emuiavf.virtchnl.state import VfLimits
from tests.fakes.vf import MAC, OTHER_MAC, FakeVf, pair

Step = tuple[Op, Wire | None, Sequence[Wire] | bytes]

LINUX_6_1 = 0x1ABD_80F9
LINUX_6_12 = LINUX_6_1 | Cap.TC_U32 | Cap.CRC
DPDK = 0xBE0B_C7E1
IPXE = Cap.L2 | Cap.REQ_QUEUES
VPP = 0x180B_80A1
FREEBSD = Cap.L2 | Cap.VLAN | Cap.RSS_PF | Cap.ADV_LINK_SPEED

STRIP_8100 = m.VlanSetting(1, 0, 1)
SPREAD = bytes(i % 4 for i in range(64))


def resources(caps: int) -> list[Step]:
    return [(Op.GET_VF_RESOURCES, m.CapRequest(caps), ())]


def start(caps: int) -> list[Step]:
    return [(Op.VERSION, m.Version(1, 1), ()), *resources(caps)]


def enable(rx: int, tx: int) -> Step:
    return (Op.ENABLE_QUEUES, m.QueueSelect(1, rx, tx), ())


def disable(rx: int, tx: int) -> Step:
    return (Op.DISABLE_QUEUES, m.QueueSelect(1, rx, tx), ())


def queues(*pairs: m.QueuePair) -> Step:
    return (Op.CONFIG_VSI_QUEUES, m.VsiQueueConfig(1), pairs)


def vectors(*entries: m.VectorEntry) -> Step:
    return (Op.CONFIG_IRQ_MAP, m.IrqMap(), entries)


def addresses(op: Op, *entries: m.EtherAddr) -> Step:
    return (op, m.EtherAddrList(1), entries)


def key() -> Step:
    return (Op.CONFIG_RSS_KEY, m.RssKey(1), bytes(range(52)))


def lut(table: bytes = SPREAD) -> Step:
    return (Op.CONFIG_RSS_LUT, m.RssLut(1), table)


def hena(mask: int) -> Step:
    return (Op.SET_RSS_HENA, m.RssHena(mask), ())


def promisc(flags: int) -> Step:
    return (Op.CONFIG_PROMISCUOUS_MODE, m.PromiscInfo(1, flags), ())


def stats() -> Step:
    return (Op.GET_STATS, m.QueueSelect(1), ())


def linux(caps: int, max_pkt_size: int) -> list[Step]:
    """Probe with the interface down, ifup, a VLAN device, ifdown."""
    per_queue = [m.VectorEntry(1, i + 1, 1 << i, 1 << i, 0, 1) for i in range(4)]
    rings = [pair(i, rx_databuffer_size=2048, rx_max_pkt_size=max_pkt_size) for i in range(4)]
    return [
        *start(caps),
        (Op.GET_OFFLOAD_VLAN_V2_CAPS, None, ()),
        vectors(*per_queue, m.VectorEntry(1, 0, 0, 0, 0, 0)),
        (Op.GET_RSS_HENA_CAPS, None, ()),
        hena(0x7F9F_E000_0000),
        key(),
        lut(),
        (Op.ENABLE_VLAN_STRIPPING_V2, STRIP_8100, ()),
        (Op.ENABLE_VLAN_INSERTION_V2, STRIP_8100, ()),
        stats(),
        addresses(Op.ADD_ETH_ADDR, m.EtherAddr(MAC, 1), m.EtherAddr(b"\x33\x33" + MAC[2:], 2)),
        queues(*rings),
        enable(0xF, 0xF),
        promisc(0),
        (Op.ADD_VLAN_V2, m.VlanFilterList(1), [m.VlanFilter(0, 0, 0, 100, 0, 0x8100)]),
        stats(),
        disable(0xF, 0xF),
        addresses(Op.DEL_ETH_ADDR, m.EtherAddr(MAC, 1), m.EtherAddr(b"\x33\x33" + MAC[2:], 2)),
        (Op.DEL_VLAN_V2, m.VlanFilterList(1), [m.VlanFilter(0, 0, 0, 100, 0, 0x8100)]),
    ]


def dpdk() -> list[Step]:
    """testpmd with 2 Rx and 1 Tx queues, one Rx interrupt vector, stopped again."""
    rings = [
        pair(0, rx_databuffer_size=2048, rx_max_pkt_size=1526, rx_rxdid=22),
        pair(1, tx_ring_len=0, tx_dma_ring_addr=0, rx_max_pkt_size=1526),
    ]
    return [
        *start(DPDK),
        (Op.GET_SUPPORTED_RXDIDS, None, ()),
        (Op.GET_OFFLOAD_VLAN_V2_CAPS, None, ()),
        hena(0),
        stats(),
        (Op.DISABLE_VLAN_STRIPPING_V2, STRIP_8100, ()),
        (Op.ENABLE_VLAN_INSERTION_V2, STRIP_8100, ()),
        lut(bytes(i % 2 for i in range(64))),
        key(),
        hena(0x7F9F_E000_0000),
        (Op.GET_QOS_CAPS, None, ()),
        (Op.CONFIG_QUANTA, m.QuantaConfig(256, 0, 0, 2), ()),
        queues(*rings),
        vectors(m.VectorEntry(1, 1, 3, 0, 0, 0)),
        addresses(Op.ADD_ETH_ADDR, m.EtherAddr(MAC, 1)),
        enable(0, 1),
        enable(1, 0),
        enable(2, 0),
        promisc(1),
        disable(3, 1),
        addresses(Op.DEL_ETH_ADDR, m.EtherAddr(MAC, 1)),
        promisc(0),
    ]


def ipxe_open() -> list[Step]:
    """After its two resets: one short ring each way, both promiscuous modes, no address added."""
    ring = pair(
        0,
        tx_ring_len=64,
        rx_ring_len=64,
        rx_databuffer_size=1536,
        rx_max_pkt_size=1536,
        rx_rxdid=0,
    )
    return [
        *resources(IPXE),
        queues(ring),
        vectors(m.VectorEntry(1, 1, 1, 1, 0, 0)),
        enable(1, 1),
        promisc(3),
        disable(1, 1),
    ]


def vpp_dev_iavf() -> list[Step]:
    """All pairs are configured, the unused ones with ring_len 0 and max_pkt_size 64."""
    unused = [
        pair(i, tx_ring_len=0, rx_ring_len=0, rx_databuffer_size=0, rx_max_pkt_size=64)
        for i in (1, 2, 3)
    ]
    return [
        *start(VPP | Cap.LARGE_NUM_QPAIRS | Cap.REQ_QUEUES),
        (Op.GET_OFFLOAD_VLAN_V2_CAPS, None, ()),
        (Op.DISABLE_VLAN_STRIPPING_V2, STRIP_8100, ()),
        (Op.DISABLE_VLAN_STRIPPING, None, ()),
        key(),
        lut(bytes(64)),
        queues(pair(0, rx_rxdid=0), *unused),
        vectors(m.VectorEntry(1, 1, 1, 1, 0, 0)),
        enable(1, 1),
        stats(),
        vectors(m.VectorEntry(1, 1, 0, 0, 0, 0)),
        disable(1, 1),
    ]


def vpp_avf() -> list[Step]:
    """After its refused REQUEST_QUEUES; the address is added as a legacy one."""
    return [
        *start(VPP),
        (Op.GET_OFFLOAD_VLAN_V2_CAPS, None, ()),
        (Op.DISABLE_VLAN_STRIPPING_V2, STRIP_8100, ()),
        lut(bytes(64)),
        key(),
        queues(pair(0, rx_rxdid=0, rx_max_pkt_size=9216)),
        vectors(m.VectorEntry(1, 1, 1, 0, 0, 0)),
        addresses(Op.ADD_ETH_ADDR, m.EtherAddr(MAC)),
        enable(1, 1),
        stats(),
        promisc(1),
    ]


def freebsd() -> list[Step]:
    """Queues are disabled before there are any; RSS and vectors come behind the rings."""
    per_queue = [m.VectorEntry(1, i + 1, 1 << i, 1 << i, 0, 1) for i in range(4)]
    return [
        *start(FREEBSD),
        disable(0xF, 0xF),
        addresses(Op.DEL_ETH_ADDR, m.EtherAddr(MAC)),
        addresses(Op.ADD_ETH_ADDR, m.EtherAddr(MAC)),
        queues(*[pair(i, tx_ring_len=1024, rx_ring_len=1024, rx_rxdid=0) for i in range(4)]),
        key(),
        hena(0x8000_7E98_2E00_0000 | 0x7F9F_E000_0000),
        lut(),
        vectors(*per_queue, m.VectorEntry(1, 0, 0, 0, 0, 0)),
        promisc(0),
        enable(0xF, 0xF),
        stats(),
    ]


SCRIPTS = {
    "linux 6.1": linux(LINUX_6_1, 1534),
    "linux 6.12": linux(LINUX_6_12, 9728),
    "dpdk": dpdk(),
    "ipxe": ipxe_open(),
    "vpp dev_iavf": vpp_dev_iavf(),
    "vpp avf": vpp_avf(),
    "freebsd": freebsd(),
}


def run(vf: FakeVf, script: Sequence[Step]) -> list[tuple[str, Status]]:
    """Hold the conversation; returns the messages that were not answered with success."""
    answers = [(op, vf.status(op, head, items)) for op, head, items in script]
    return [(op.name, status) for op, status in answers if status != Status.SUCCESS]


@pytest.mark.parametrize("driver", SCRIPTS)
def test_every_message_of_the_driver_succeeds(driver: str) -> None:
    assert run(FakeVf(), SCRIPTS[driver]) == []


@pytest.mark.parametrize("driver", SCRIPTS)
def test_driver_can_do_it_all_again_after_a_reset(driver: str) -> None:
    vf = FakeVf()
    run(vf, SCRIPTS[driver])
    assert vf.post(Op.RESET_VF) == [ResetRequest(Op.RESET_VF)]
    vf.session.reset()
    assert run(vf, SCRIPTS[driver]) == []


@pytest.mark.parametrize("driver", SCRIPTS)
def test_driver_can_do_it_all_again_without_a_reset(driver: str) -> None:
    vf = FakeVf()
    run(vf, SCRIPTS[driver])
    assert run(vf, SCRIPTS[driver]) == []


def test_linux_has_its_queues_vectors_and_offloads_when_it_is_up() -> None:
    vf = FakeVf()
    script = SCRIPTS["linux 6.12"]
    run(vf, script[: script.index(enable(0xF, 0xF)) + 1])
    assert (vf.datapath.rx_enabled, vf.datapath.tx_enabled) == (0xF, 0xF)
    assert [vf.datapath.vectors[i].rx_queues for i in range(5)] == [0, 1, 2, 4, 8]
    assert vf.datapath.last("set_rss").lut == SPREAD
    assert vf.datapath.last("set_vlan_offload") == VlanOffload(
        strip_outer=0x8100, insert_outer=0x8100
    )


def test_linux_skips_version_after_a_reset() -> None:
    vf = FakeVf()
    run(vf, SCRIPTS["linux 6.12"])
    vf.session.reset()
    assert run(vf, SCRIPTS["linux 6.12"][1:]) == []


def test_linux_changes_its_mtu_by_a_reset_and_comes_up_with_larger_frames() -> None:
    vf = FakeVf()
    run(vf, SCRIPTS["linux 6.1"])
    vf.session.reset()
    assert run(vf, linux(LINUX_6_1, 9026)[1:]) == []
    assert vf.datapath.last("configure_rx").max_pkt_size == 9026


def test_ipxe_gets_its_one_pair_by_two_resets() -> None:
    vf = FakeVf()
    assert vf.post(Op.RESET_VF) == [ResetRequest(Op.RESET_VF)]
    vf.session.reset()
    assert run(vf, start(IPXE)) == []
    posted = vf.post(Op.REQUEST_QUEUES, m.QueueRequest(1))
    assert posted[0] == ResetRequest(Op.REQUEST_QUEUES, 1)
    vf.session.reset()
    assert vf.resources(IPXE).num_queue_pairs == 1
    assert run(vf, ipxe_open()) == []


def test_ipxe_receives_for_its_address_without_adding_it() -> None:
    vf = FakeVf()
    run(vf, ipxe_open())
    assert vf.datapath.last("set_rx_filter").macs == {MAC}
    assert vf.datapath.last("set_rx_filter").promisc_unicast


def test_vpp_avf_asks_for_queues_before_anything_else_and_is_refused() -> None:
    vf = FakeVf()
    refused = Reply(Op.REQUEST_QUEUES, Status.NOT_SUPPORTED)
    assert vf.post(Op.REQUEST_QUEUES, m.QueueRequest(4)) == [refused]
    assert run(vf, vpp_avf()) == []


def test_dpdk_configures_more_pairs_than_one_message_holds_of_its_own() -> None:
    vf = FakeVf(limits=VfLimits(16, 16, 17)).bring_up()
    script = [queues(*map(pair, range(8))), queues(*map(pair, range(8, 16)))]
    assert run(vf, [*script, enable(0xFFFF, 0xFFFF)]) == []
    assert vf.datapath.rx_enabled == 0xFFFF


def test_dpdk_without_wb_on_itr_maps_its_queues_to_vector_0() -> None:
    vf = FakeVf().bring_up(DPDK & ~Cap.WB_ON_ITR)
    assert run(vf, [vectors(m.VectorEntry(1, 0, 1, 0, 0, 0))]) == []
    assert vf.datapath.vectors[0].rx_queues == 1


def test_dpdk_restarts_one_queue_without_configuring_it() -> None:
    vf = FakeVf()
    run(vf, [*start(DPDK), queues(pair(0), pair(1)), enable(3, 3), disable(2, 0)])
    assert run(vf, [enable(2, 0)]) == []
    assert vf.datapath.rx_enabled == 3


def test_dpdk_changes_its_address_by_deleting_then_adding() -> None:
    vf = FakeVf()
    run(vf, start(DPDK))
    change = [
        addresses(Op.DEL_ETH_ADDR, m.EtherAddr(MAC, 1)),
        addresses(Op.ADD_ETH_ADDR, m.EtherAddr(OTHER_MAC, 1)),
    ]
    assert run(vf, change) == []
    assert vf.resources().default_mac_addr == OTHER_MAC
