"""Requests over the admin queue that are too short, too long, too many, or not to be had."""

import struct

from emuiavf.vfio_user.wire import Command
from emuiavf.virtchnl.messages import LAYOUTS, Layout
from emuiavf.virtchnl.ops import MAX_MESSAGE, Op, Status
from tests.hostile.attacks import Target, attack
from tests.hostile.attacks.transport import errno_of
from tests.hostile.intruder import REFUSED, Intruder


def wrong_lengths(layout: Layout) -> list[int]:
    """Every length near the right one, and the longest; not the right one itself."""
    size = layout.head.SIZE if layout.head is not None else 0
    if layout.tail is not None:
        # A header alone says count 0; counts are a case of their own.
        return list(range(size))
    lengths = {*range(size + 9), 64, 1000, MAX_MESSAGE} - {size}
    return sorted(lengths - ({0} if layout.optional else set()))


def bodies(layout: Layout) -> list[bytes]:
    """Requests that break the length rule."""
    made = [b"\0" * length for length in wrong_lengths(layout)]
    tail, head = layout.tail, layout.head
    if tail is None or head is None:
        return made
    names = list(head._names)
    for count in (0, 1, 2, tail.max_count, tail.max_count + 1, 0x7FFF, 0xFFFF):
        values = [1] * len(names)
        values[names.index(tail.count)] = count
        start = head(*values).encode()
        room = count * tail.item_size
        made.append(start)
        # One byte less than the elements take.
        if 0 < room <= MAX_MESSAGE - len(start):
            made.append(start + bytes(room - 1))
        if count > tail.max_count:
            made.append(start.ljust(MAX_MESSAGE, b"\0"))
    return made


@attack
def every_length_rule_broken(target: Target) -> None:
    """Each row of the table of layouts: refused with the status for it, and nothing has changed."""
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        for op, layout in LAYOUTS.items():
            for body in bodies(layout):
                status = guest.status(op, body)
                assert status in REFUSED, f"{op.name} with {len(body)} bytes: {status}"
        guest.carry()


@attack
def opcodes_that_are_not_served(target: Target) -> None:
    with target.intruder() as guest:
        guest.negotiate()
        for opcode in {*range(200), 0xFFFF, 0x8000_0000, 0xFFFF_FFFF} - {int(op) for op in LAYOUTS}:
            assert guest.status(opcode, bytes(16)) == Status.NOT_SUPPORTED
        guest.start()
        guest.carry()


@attack
def requests_before_their_time(target: Target) -> None:
    """Everything but VERSION, RESET_VF and GET_VF_RESOURCES before the resources are known."""
    early = (Op.VERSION, Op.RESET_VF, Op.GET_VF_RESOURCES)
    with target.intruder() as guest:
        guest.driver.open()
        for op in LAYOUTS.keys() - set(early):
            assert guest.status(op, bytes(64)) == Status.NOT_SUPPORTED
        guest.negotiate()
        guest.start()
        guest.carry()


@attack
def queues_and_vectors_that_are_not_there(target: Target) -> None:
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        beyond = (1 << 4, 1 << 31, 0xFFFF_FFFF, 0xFFFF_FFF0)
        for queues in beyond:
            assert guest.enable(queues) == Status.ERR_PARAM
            assert guest.disable(queues) == Status.ERR_PARAM
        for vsi in (0, 2, 0xFFFF):
            select = struct.pack("<HHII", vsi, 0, 1, 1)
            for op in (Op.ENABLE_QUEUES, Op.DISABLE_QUEUES, Op.GET_STATS):
                assert guest.status(op, select) == Status.ERR_PARAM
        for vsi, vector, rx, tx, rx_itr, tx_itr in (
            (1, 17, 1, 1, 0, 0),
            (1, 0xFFFF, 1, 1, 0, 0),
            (1, 1, 0x10, 1, 0, 0),
            (1, 1, 1, 0x8000, 0, 0),
            (1, 1, 1, 1, 4, 0),
            (1, 1, 1, 1, 0, 0xFFFF),
            (0, 1, 1, 1, 0, 0),
        ):
            entry = struct.pack("<HHHHHHH", 1, vsi, vector, rx, tx, rx_itr, tx_itr)
            assert guest.status(Op.CONFIG_IRQ_MAP, entry + bytes(12)) == Status.ERR_PARAM
        guest.carry()


@attack
def rows_of_queues_that_are_not_there(target: Target) -> None:
    """The messages of a large VF: chunks and vectors beyond it, and the longest lists there are."""
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        for kind, first, count in (
            (2, 0, 1),
            (-1, 0, 1),
            (0, 0, 0),
            (1, 4, 1),
            (1, 0, 5),
            (0, 3, 2),
            (0, 0xFFFF, 0xFFFF),
            (1, 1, 0xFFFF),
        ):
            wrong = struct.pack("<iHH", kind, first, count)
            for chunks in (wrong, struct.pack("<iHH", 1, 0, 1) + wrong, wrong * 511):
                body = struct.pack("<HHHH", 1, 0, len(chunks) // 8, 0) + chunks
                for op in (Op.ENABLE_QUEUES_V2, Op.DISABLE_QUEUES_V2):
                    assert guest.status(op, body) == Status.ERR_PARAM
        for queue, vector, itr, kind in (
            (4, 1, 0, 0),
            (0xFFFF, 1, 0, 1),
            (0, 17, 0, 1),
            (0, 0xFFFF, 0, 1),
            (0, 1, 4, 1),
            (0, 1, -1, 0),
            (0, 1, 0, 2),
            (0, 1, 0, -1),
        ):
            wrong = struct.pack("<HHIii", queue, vector, 0, itr, kind)
            for maps in (wrong, wrong * 255):
                body = struct.pack("<HHI", 1, len(maps) // 16, 0) + maps
                assert guest.status(Op.MAP_QUEUE_VECTOR, body) == Status.ERR_PARAM
        # What may be said 511 and 255 times counts once.
        same = struct.pack("<HHHH", 1, 0, 511, 0) + struct.pack("<iHH", 1, 0, 4) * 511
        assert guest.status(Op.DISABLE_QUEUES_V2, same) == 0
        same = struct.pack("<HHI", 1, 255, 0) + struct.pack("<HHIii", 0, 1, 0, 3, 1) * 255
        assert guest.status(Op.MAP_QUEUE_VECTOR, same) == 0
        guest.cure()
        # As many queues as the device has, of which none is ever set up.
        guest.driver.send(Op.REQUEST_QUEUES, struct.pack("<H", 64))
        guest.cure_by_reset()


@attack
def settings_out_of_range(target: Target) -> None:
    """Keys, tables, filters and modes that name what does not exist."""
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        lut = struct.pack("<HH", 1, 64)
        for op, body in (
            (Op.CONFIG_RSS_LUT, struct.pack("<HH", 1, 63) + bytes(63)),
            (Op.CONFIG_RSS_KEY, struct.pack("<HH", 1, 51) + bytes(51)),
            (Op.CONFIG_RSS_KEY, struct.pack("<HH", 1, 53) + bytes(53)),
            (Op.CONFIG_PROMISCUOUS_MODE, struct.pack("<HH", 2, 0)),
            (Op.ADD_ETH_ADDR, struct.pack("<HH", 2, 1) + bytes(16)),
            (Op.ADD_VLAN_V2, struct.pack("<HHI", 1, 1, 0) + bytes(32)),
            (Op.ADD_VLAN_V2, struct.pack("<HHI", 1, 1, 0) + b"\xff" * 32),
        ):
            reply = guest.rpc(op, body)
            assert reply.status != 0, op.name
        # A table that names no queue, classes and modes nobody knows: taken, and without effect.
        assert guest.status(Op.CONFIG_PROMISCUOUS_MODE, struct.pack("<HH", 1, 0xFFFC)) == 0
        assert guest.status(Op.CONFIG_RSS_LUT, lut + bytes([255]) * 65) == 0
        assert guest.status(Op.SET_RSS_HENA, b"\xff" * 8) == 0
        # Too many queues, or none: the answer is a number, there is no reset.
        for pairs in (0, 65, 0xFFFF):
            reply = guest.rpc(Op.REQUEST_QUEUES, struct.pack("<H", pairs))
            assert struct.unpack("<H", reply.body)[0] <= 64
        guest.carry()


@attack
def filters_until_there_is_no_room(target: Target) -> None:
    """Addresses and VLANs by the thousand: a limit, and lists stay as they are when refused."""
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        refused = 0
        for group in range(40):
            items = b"".join(
                b"\x02\xaa" + struct.pack(">I", group << 16 | n) + b"\x02\x00" for n in range(100)
            )
            body = struct.pack("<HH", 1, 100) + items + bytes(8)
            refused += guest.status(Op.ADD_ETH_ADDR, body) != 0
        assert refused, "4,000 addresses were taken"
        refused = 0
        for group in range(50):
            tags = [group * 100 + n & 0xFFF for n in range(100)]
            items = b"".join(struct.pack("<8xHHHH16x", tag, 0, 0x8100, 0) for tag in tags)
            refused += guest.status(Op.ADD_VLAN_V2, struct.pack("<HHI", 1, 100, 0) + items) != 0
        assert refused or guest.counter("tx-0", 0) >= 0
        flood_of_statistics(guest)
        guest.cure()


def flood_of_statistics(guest: Intruder) -> None:
    for _ in range(200):
        assert guest.status(Op.GET_STATS, struct.pack("<HHII", 1, 0, 0, 0)) == 0


@attack
def a_flood_of_refusals(target: Target) -> None:
    """Refused messages, stopped queues and refused commands: all that is worth a line of a log."""
    with target.intruder() as guest:
        guest.negotiate()
        for opcode in range(3000):
            assert guest.status(10_000 + opcode) == Status.NOT_SUPPORTED
        for offset in range(1000):
            errno_of(guest.client, Command.REGION_READ, struct.pack("<QII", 1 << 40, 0, offset))
        for _ in range(30):
            guest.start()
            guest.describe((0, 0))
            guest.reset_vf()
