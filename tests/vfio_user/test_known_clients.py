"""Conversations as QEMU, Cloud Hypervisor and SPDK hold them, byte for byte.

The bytes of QEMU's are the annotated example of the protocol reference; a PCI function with a
64 KiB BAR0 and two mappable areas answers.
"""

import os
import struct
from collections.abc import Callable

import pytest

from emuiavf.vfio_user.client import eventfds
from tests.fakes.pci_function import PciFunction
from tests.vfio_user.exchange import Exchange
from tests.vfio_user.test_negotiation import CLOUD_HYPERVISOR, QEMU

# What QEMU sends, which descriptors it attaches, and what it must get.
QEMU_TALK = {
    "DMA_MAP": (
        "01000200300000000000000000000000 20000000030000000000000000000000"
        "000000000000000000000a0000000000",
        "memfd",
        "01000200100000000100000000000000",
    ),
    "GET_INFO": (
        "02000400200000000000000000000000 10000000000000000000000000000000",
        "",
        "02000400200000000100000000000000 10000000030000000900000005000000",
    ),
    "GET_REGION_INFO, first": (
        "03000500300000000000000000000000 20000000000000000000000000000000"
        "00000000000000000000000000000000",
        "",
        "03000500300000000100000000000000 50000000070000000000000000000000"
        "00000100000000000000000000000000",
    ),
    "GET_REGION_INFO, second": (
        "04000500300000000000000000000000 50000000000000000000000000000000"
        "00000000000000000000000000000000",
        "",
        "04000500600000000100000000000000 500000000f0000000000000020000000"
        "00000100000000000000000000000000 01000100000000000200000000000000"
        "00000000000000000010000000000000 00200000000000000010000000000000",
    ),
    "SET_IRQS without vectors": (
        "40000800240000000000000000000000 14000000240000000200000000000000 01000000",
        "",
        "40000800100000000100000000000000",
    ),
    "SET_IRQS of vector 1": (
        "41000800240000000000000000000000 14000000240000000200000001000000 01000000",
        "eventfd",
        "41000800100000000100000000000000",
    ),
    "SET_IRQS off": (
        "42000800240000000000000000000000 14000000210000000200000000000000 00000000",
        "",
        "42000800100000000100000000000000",
    ),
    "REGION_READ": (
        "50000900200000000000000000000000 00000000000000000700000004000000",
        "",
        "50000900240000000100000000000000 00000000000000000700000004000000 86808918",
    ),
    "posted REGION_WRITE": (
        "51000a00240000001000000000000000 00200000000000000000000004000000 ff010000",
        "",
        "",
    ),
    "DMA_UNMAP": (
        "52000300280000000000000000000000 18000000000000000000000000000000 00000a0000000000",
        "",
        "52000300280000000100000000000000 18000000000000000000000000000000 00000a0000000000",
    ),
}
MAKERS: dict[str, Callable[[], list[int]]] = {
    "memfd": lambda: [os.memfd_create("ram")],
    "eventfd": lambda: eventfds(1),
    "": list,
}


@pytest.mark.parametrize(("sent", "kind", "expected"), QEMU_TALK.values(), ids=QEMU_TALK.keys())
def test_qemu_gets_these_bytes(ops: PciFunction, sent: str, kind: str, expected: str) -> None:
    exchange = Exchange(ops)
    reply = exchange.send(bytes.fromhex(sent), MAKERS[kind]())
    assert (reply.data if reply else b"") == bytes.fromhex(expected)


def test_qemu_comes_up_without_any_descriptor(ops: PciFunction) -> None:
    # Its functional test tunnels the protocol over a serial port.
    exchange = Exchange(ops, negotiated=False)
    exchange.ok(1, QEMU)
    exchange.ok(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0xC0000))
    assert exchange.ok(4, struct.pack("<IIII", 16, 0, 0, 0))[4:] == struct.pack("<III", 3, 9, 5)
    for region in (0, 1, 2, 3, 4, 5, 7):
        exchange.ok(5, struct.pack("<IIIIQQ", 32, 0, region, 0, 0, 0))
    assert len(exchange.ok(9, struct.pack("<QII", 0, 7, 4096))) == 16 + 4096
    exchange.ok(10, struct.pack("<QIIH", 4, 7, 2, 0x103))
    exchange.ok(13)
    assert ops.maps[0].shared is False


def test_qemu_leaving_takes_everything_back(ops: PciFunction) -> None:
    exchange = Exchange(ops)
    exchange.ok(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0xA0000), [os.memfd_create("ram")])
    exchange.ok(8, struct.pack("<IIIII", 20, 0x24, 3, 0, 1), eventfds(1))
    exchange.ok(8, struct.pack("<IIIII", 20, 0x24, 3, 0, 1))
    exchange.ok(8, struct.pack("<IIIII", 20, 0x21, 2, 0, 0))
    exchange.ok(3, struct.pack("<IIQQ", 24, 0, 0, 0xA0000))
    assert (ops.maps, ops.fds) == ([], {})


def test_cloud_hypervisor_finds_all_regions_and_sets_all_vectors_in_batches(
    ops: PciFunction,
) -> None:
    exchange = Exchange(ops, negotiated=False)
    assert exchange.ok(1, CLOUD_HYPERVISOR)[:4] == b"\0\0\1\0"
    info = exchange.ok(4, struct.pack("<IIII", 32, 0, 0, 0))
    for region in range(struct.unpack_from("<I", info, 8)[0]):
        head = exchange.ok(5, struct.pack("<IIIIQQ", 32, 0, region, 0, 0, 0))
        needed = struct.unpack_from("<I", head)[0]
        body = exchange.ok(5, struct.pack("<IIIIQQ", needed, 0, region, 0, 0, 0))
        # It reads exactly this much, and asserts that argsz says so.
        assert len(body) == struct.unpack_from("<I", body)[0] == needed
    for start in (0, 16):
        exchange.ok(8, struct.pack("<IIIII", 20, 0x24, 2, start, 16), eventfds(16))
    assert len(ops.fds) == 32


def test_spdk_sends_long_payloads_one_id_and_a_descriptor_with_unmap(ops: PciFunction) -> None:
    exchange = Exchange(ops, negotiated=False)
    assert exchange.ok(1, b"\0\0\1\0")[:4] == b"\0\0\1\0"
    assert len(exchange.ok(4, struct.pack("<IIII", 16, 0, 0, 0) + bytes(4048))) == 16
    for region in range(9):
        request = struct.pack("<IIIIQQ", 4064, 0, region, 0, 0, 0) + bytes(4032)
        body = exchange.ok(5, request)
        assert len(body) == struct.unpack_from("<I", body)[0]
    page = os.memfd_create("hugepage")
    exchange.ok(2, struct.pack("<IIQQQ", 32, 3, 0, 1 << 40, 1 << 21), [os.dup(page)])
    exchange.ok(3, struct.pack("<IIQQ", 24, 0, 1 << 40, 1 << 21), [page])
    assert ops.maps == []
