"""VERSION, both ends: who offers what, and what is malformed."""

import json
import struct

import pytest

from emuiavf.errors import PeerError
from emuiavf.vfio_user import negotiation
from tests.fakes.pci_function import PciFunction
from tests.vfio_user.exchange import Exchange, frame

QEMU = (
    b"\0\0\0\0"
    b'{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, '
    b'"max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, '
    b'"pgsize": 4096}, "write_multiple": true}}\0'
)
CLOUD_HYPERVISOR = (
    b'\0\0\1\0{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,'
    b'"migration":{"pgsize":4096}}}\0'
)
OUR_JSON = (
    b'{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,'
    b'"max_dma_maps":65535,"pgsizes":4096}}\0'
)


@pytest.mark.parametrize(
    ("request_", "minor"),
    [
        (QEMU, 0),
        (CLOUD_HYPERVISOR, 1),
        (b"\0\0\1\0", 1),
        (b"\0\0\2\0", 1),
        (b"\0\0\xff\xff{}\0", 1),
        (b'\0\0\0\0{"capabilities":{}}\0', 0),
        (b'\0\0\0\0{"capabilities":{"max_msg_fds":1024,"novel":[1]},"x":2}\0', 0),
        (b'\0\0\0\0{"capabilities":{"twin_socket":{"supported":true}}}\0', 0),
        (b'\0\0\0\0{"capabilities":{"max_msg_fds":8}}\0 trailing\0', 0),
    ],
)
@pytest.mark.vfio_user("12.1.9", "12.1.10", "12.1.11", "12.1.12", "12.21.3")
def test_version_is_agreed_with_the_smaller_minor(
    ops: PciFunction, request_: bytes, minor: int
) -> None:
    exchange = Exchange(ops, negotiated=False)
    assert exchange.ok(1, request_) == struct.pack("<HH", 0, minor) + OUR_JSON
    assert ops.calls == [("attached",)]
    assert not exchange.session.finished


@pytest.mark.vfio_user("12.21.3")
def test_version_reply_fits_the_buffer_of_qemu(ops: PciFunction) -> None:
    reply = Exchange(ops, negotiated=False).send(frame(1, QEMU))
    assert reply is not None
    assert len(reply.data) <= 16 + len(QEMU) == 214
    assert len(OUR_JSON) - 1 <= 193
    assert reply.fds == ()


def test_version_reply_offers_nothing_that_is_not_served() -> None:
    capabilities = json.loads(OUR_JSON[:-1])["capabilities"]
    assert set(capabilities) == {"max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes"}


def with_caps(text: bytes) -> bytes:
    return b'\0\0\1\0{"capabilities":{' + text + b"}}\0"


MALFORMED = [
    b"",
    b"\0\0\0",
    struct.pack("<HH", 999, 0),
    b"\1\0\0\0" + OUR_JSON,
    b"\0\0\0\0" + OUR_JSON[:-1],
    b'\0\0\0\0{"capabilities":{"max_msg_fds":8}\0',
    b'\0\0\0\0{"capabilities:{"max_msg_fds":8}}\0',
    b'\0\0\0\0{"capabilities":"none"}\0',
    b'\0\0\0\0{"capabilities":[]}\0',
    b"\0\0\0\0[]\0",
    b"\0\0\0\0\xff\xfe\0",
    b"\0\0\0\0" + b'{"a":' * 100000 + b"\0",
    b"\0\0\0\0" + b"[" * 100000 + b"\0",
    with_caps(b'"max_msg_fds":"8"'),
    with_caps(b'"max_msg_fds":-1'),
    with_caps(b'"max_msg_fds":1025'),
    with_caps(b'"max_msg_fds":99999999999999999999999999'),
    with_caps(b'"max_data_xfer_size":"1"'),
    with_caps(b'"max_data_xfer_size":-1'),
    with_caps(b'"pgsizes":1.5'),
    with_caps(b'"migration":7'),
    with_caps(b'"migration":{"pgsize":"4096"}'),
    with_caps(b'"twin_socket":true'),
    with_caps(b'"twin_socket":{"supported":1}'),
    with_caps(b'"write_multiple":1'),
]


@pytest.mark.parametrize("payload", MALFORMED)
@pytest.mark.vfio_user("12.1.1", "12.1.4", "12.1.5", "12.1.6", "12.1.7", "12.1.8", "12.1.9")
def test_malformed_version_is_refused_and_ends_the_session(
    ops: PciFunction, payload: bytes
) -> None:
    exchange = Exchange(ops, negotiated=False)
    assert exchange.errno(1, payload) == 22
    assert exchange.session.finished
    assert ops.calls == []


@pytest.mark.parametrize("payload", MALFORMED[1:2] + MALFORMED[4:])
def test_client_refuses_a_malformed_answer(payload: bytes) -> None:
    with pytest.raises(PeerError):
        negotiation.parse(payload)


@pytest.mark.parametrize("command", [2, 4, 9, 13, 999])
@pytest.mark.vfio_user("12.1.3")
def test_first_message_that_is_not_version_is_refused_and_ends_the_session(
    ops: PciFunction, command: int
) -> None:
    exchange = Exchange(ops, negotiated=False)
    assert exchange.errno(command, bytes(32)) == 22
    assert exchange.session.finished


def test_second_version_is_refused_and_changes_nothing(ops: PciFunction) -> None:
    exchange = Exchange(ops)
    assert exchange.errno(1, QEMU) == 22
    assert not exchange.session.finished
    assert ops.calls == []


def test_client_offers_what_it_takes() -> None:
    assert negotiation.offer(1) == b"\0\0\1\0" + OUR_JSON
    assert negotiation.parse(QEMU)[1].max_msg_fds == 16
    assert negotiation.parse(b"\0\0\0\0")[1] == negotiation.Capabilities()
