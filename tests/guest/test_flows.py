"""Generated flows through the whole device: each lands where an independent model says."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from emuiavf._rxdid import Rxdid
from emuiavf.app import Backend
from emuiavf.guest.driver import VfDriver
from emuiavf.guest.frames import Frame
from emuiavf.guest.settings import FlowRefused
from emuiavf.virtchnl.messages import FdirAdd, FilterAction, ProtoHdr, raw_pattern
from emuiavf.virtchnl.ops import Action, HashFunc
from tests.model import flows as model
from tests.model import offload
from tests.model.generate import packet

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
QUEUES = 4
DEADLINE_S = 20.0
KEY = random.Random(5).randbytes(52)
LUT = bytes(random.Random(6).choices(range(QUEUES), k=64))


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[tuple[VfDriver, VfDriver]]:
    """A sender, and a receiver with four queues."""
    paths = [str(tmp_path / f"{number}.sock") for number in range(2)]
    with ExitStack() as stack:
        backend = stack.enter_context(Backend())
        for number, (path, mac) in enumerate(zip(paths, MACS, strict=True)):
            backend.add_device(f"emu_iavf{number},path={path},mac={mac},queues={QUEUES}")
        backend.connect("emu_iavf0", "emu_iavf1")
        backend.start()
        sender, receiver = (stack.enter_context(VfDriver(path)) for path in paths)
        sender.start()
        receiver.start(QUEUES, rxdid=Rxdid.FLEX_OVS)
        yield sender, receiver


def exchange(
    sender: VfDriver, receiver: VfDriver, frames: Sequence[bytes], expected: int
) -> dict[bytes, Frame]:
    """What comes of frames that are all different, by their bytes."""
    deadline = time.monotonic() + DEADLINE_S
    sent = 0
    found: dict[bytes, Frame] = {}
    while sent < len(frames) or len(found) < expected:
        sent += sender.queues[0].send(frames[sent : sent + 64])
        for queue in receiver.queues:
            found |= {frame.data: frame for frame in queue.receive()}
        assert time.monotonic() < deadline, f"{len(found)} of {expected} frames"
    return found


def headers(stack: model.Headers) -> list[ProtoHdr]:
    return [ProtoHdr(kind, selector) for kind, selector in stack]


def random_stack(source: random.Random) -> model.Headers:
    """A stack that the device takes, with fields of every kind."""
    front: list[tuple[int, int]] = []
    if source.random() < 0.3:
        front.append((model.ETH, source.choice([0, 1, 2, 3, 4])))
        if source.random() < 0.5:
            front.append((model.C_VLAN, 1))
    if source.random() < 0.1:
        return ((model.ETH, source.choice([1, 2, 3, 4])), (model.S_VLAN, 1))
    version = source.choice([model.IPV4, model.IPV6])
    selections = {
        model.IPV4: [1, 2, 3, 17, 18, 19, 33, 34, 35, 51],
        model.IPV6: [1, 2, 3, 17, 18, 19, 1 << 11, 1 << 12, 3 << 11, 3 << 11 | 16],
    }
    front.append((version, source.choice(selections[version])))
    upper = source.choice([0, model.TCP, model.UDP, model.SCTP, -1])
    if upper == -1:
        front.append((model.IPV4_FRAG if version == model.IPV4 else model.IPV6_FRAG, 1))
    elif upper:
        front.append((upper, source.choice([0, 1, 2, 3, 3, 4, 7])))
    return tuple(front)


def configure(source: random.Random, receiver: VfDriver) -> model.Rss:
    """Random requests, and the model of what they mean."""
    hena = source.choice([0, receiver.hena_caps(), 1 << 33 | 1 << 41 | 1 << 35])
    rss = model.Rss(KEY, LUT, hena)
    settings = receiver.settings
    settings.set_hash_function(HashFunc.TOEPLITZ)
    settings.set_rss(KEY, LUT, hena)
    said: list[model.Headers] = []
    for _ in range(source.randrange(1, 8)):
        if said and source.random() < 0.2:
            stack = source.choice(said)
            settings.remove_rss_cfg(headers(stack))
            rss.remove(stack)
            continue
        stack, algorithm = random_stack(source), source.choice([0, 0, 2, 3])
        settings.add_rss_cfg(headers(stack), HashFunc(algorithm))
        rss.add(stack, algorithm)
        said.append(stack)
    if source.random() < 0.2:
        settings.add_rss_cfg([], HashFunc.XOR)
        rss.add((), 1)
    return rss


def test_a_thousand_flows_are_hashed_as_the_model_says(
    drivers: tuple[VfDriver, VfDriver],
) -> None:
    source = random.Random(17)
    sender, receiver = drivers
    queues: set[int] = set()
    count = unhashed = 0
    for _ in range(25):
        rss = configure(source, receiver)
        frames = [packet(source, number) for number in range(40)]
        found = exchange(sender, receiver, frames, len(frames))
        for data in frames:
            got = found[data]
            assert got.rss_hash == rss.hash(data), (rss, data.hex())
            assert got.queue == rss.queue(data)
            queues.add(got.queue)
            unhashed += got.rss_hash is None
        count += len(frames)
    assert count == 1000
    assert queues == set(range(QUEUES))
    assert 0 < unhashed < count / 2


def test_what_was_said_of_stacks_holds_after_a_reset(drivers: tuple[VfDriver, VfDriver]) -> None:
    sender, receiver = drivers
    stack = ((model.IPV4, 1), (model.TCP, 0))
    rss = model.Rss(KEY, LUT, receiver.hena_caps())
    receiver.settings.set_rss(KEY, LUT, rss.hena)
    receiver.settings.add_rss_cfg(headers(stack))
    rss.add(stack)
    receiver.reset()
    source = random.Random(3)
    frames = [packet(source, number) for number in range(60)]
    found = exchange(sender, receiver, frames, len(frames))
    assert [found[data].rss_hash for data in frames] == [rss.hash(data) for data in frames]


# Flow director

FIELDS = {model.IPV4: [0, 1, 2, 3, 4], model.IPV6: [0, 1, 2, 3, 4]}


def random_rules(source: random.Random, frames: Sequence[bytes]) -> list[model.Rule]:
    """Rules that can stand beside each other and match some of the frames."""
    rules: list[model.Rule] = []
    chosen: dict[tuple[int, int], tuple[int, int]] = {}
    for version in (model.IPV4, model.IPV6):
        uppers = [0] if source.random() < 0.4 else [model.TCP, model.UDP, model.SCTP]
        for upper in uppers:
            selected = [bit for bit in FIELDS[version] if source.random() < 0.4]
            ports = source.choice([0, 1, 2, 3]) if upper else 0
            if not selected and not ports:
                ports, selected = (2, []) if upper else (0, [0])
            chosen[version, upper] = (sum(1 << bit for bit in selected), ports)
    seen: set[object] = set()
    for data in source.sample(list(frames), len(frames) // 2):
        known = offload.parse(data[:128])
        version = {4: model.IPV4, 6: model.IPV6}.get(known.version, 0)
        upper = next((k for k, p in model.PROTOCOL.items() if p == known.protocol), 0)
        key = (version, upper) if (version, upper) in chosen else (version, 0)
        actions = random_actions(source)
        if source.random() < 0.1:
            raw = random_raw(source, data)
            if raw not in seen:
                seen.add(raw)
                rules.append(model.Rule(raw=raw, **actions))
            continue
        if key not in chosen:
            continue
        fields, ports = chosen[key]
        parts = [(version, fields, data[known.l2 : known.l2 + known.l3].ljust(64, b"\0")[:64])]
        if key[1]:
            l4 = data[known.l2 + known.l3 :][:4]
            parts.append((key[1], ports, l4.ljust(64, b"\0")))
        rule = model.Rule(tuple(parts), **actions)
        if any(old.raw is None and old.headers and same(old, rule, data) for old in rules):
            continue
        rules.append(rule)
    return rules[:128]


def same(old: model.Rule, new: model.Rule, frame: bytes) -> bool:
    """Both are for the frame's kind, and both are met by it: the second would be refused."""
    kinds = [kind for kind, _, _ in old.headers]
    return kinds == [kind for kind, _, _ in new.headers] and old.matches(frame)


def random_raw(source: random.Random, frame: bytes) -> tuple[bytes, bytes]:
    """A few bits of the front of a frame, as it has them."""
    mask = bytearray(48)
    for _ in range(source.randrange(1, 4)):
        mask[source.randrange(12, 48)] = source.choice([0xFF, 0x0F, 0xF0])
    front = frame[:48].ljust(48, b"\0")
    return bytes(a & b for a, b in zip(front, mask, strict=True)), bytes(mask)


def random_actions(source: random.Random) -> dict[str, Any]:
    mark = source.choice([None, 0, 7, source.randrange(1 << 32)])
    made: list[dict[str, Any]] = [
        {"drop": True},
        {"queue": source.randrange(QUEUES), "mark": mark},
        {"queue": source.randrange(QUEUES), "mark": mark},
        {"queue": source.choice([0, 2]), "region": 1, "mark": mark},
        {"mark": mark},
    ]
    chosen = source.choice(made)
    # All ones means that there is no mark, in the flexible formats.
    return {k: v for k, v in chosen.items() if v != 0xFFFF_FFFF}


def request(rule: model.Rule) -> FdirAdd:
    destination = FilterAction(Action.PASSTHRU)
    if rule.drop:
        destination = FilterAction(Action.DROP)
    elif rule.region:
        destination = FilterAction(Action.Q_REGION, rule.queue or 0, rule.region)
    elif rule.queue is not None:
        destination = FilterAction(Action.QUEUE, rule.queue)
    actions = [destination]
    if rule.mark is not None:
        actions.append(FilterAction.mark(rule.mark))
    if rule.raw is not None:
        return FdirAdd.of(raw_pattern(*rule.raw), actions)
    return FdirAdd.of([ProtoHdr(*part) for part in rule.headers], actions)


@pytest.mark.parametrize("rxdid", list(Rxdid), ids=lambda rxdid: rxdid.name)
def test_a_thousand_flows_are_steered_as_the_model_says(
    drivers: tuple[VfDriver, VfDriver], rxdid: Rxdid
) -> None:
    source = random.Random(29 + rxdid)
    sender, receiver = drivers
    receiver.stop()
    receiver.start(QUEUES, rxdid=rxdid)
    count = dropped = marked = steered = 0
    for _ in range(10):
        rss = model.Rss(KEY, LUT, source.choice([0, receiver.hena_caps()]))
        receiver.settings.set_rss(KEY, LUT, rss.hena)
        frames = [packet(source, number) for number in range(100)]
        rules = random_rules(source, frames)
        ids = [receiver.settings.add_flow(request(rule)) for rule in rules]
        wanted = {data: model.verdict(rules, rss, data) for data in frames}
        arriving = [data for data in frames if wanted[data].queue is not None]
        found = exchange(sender, receiver, frames, len(arriving))
        assert found.keys() == set(arriving)
        for data in arriving:
            got = found[data]
            assert (got.queue, got.mark) == (wanted[data].queue, wanted[data].mark), data.hex()
            assert got.rss_hash == rss.hash(data)
            marked += got.mark is not None
            steered += got.queue != rss.queue(data)
        count += len(frames)
        dropped += len(frames) - len(arriving)
        source.shuffle(ids)
        for flow_id in ids:
            receiver.settings.remove_flow(flow_id)
    assert count == 1000
    assert min(dropped, marked, steered) > 50, (dropped, marked, steered)


def test_rules_end_with_a_reset(drivers: tuple[VfDriver, VfDriver]) -> None:
    sender, receiver = drivers
    source = random.Random(4)
    frames = [packet(source, number) for number in range(50)]
    receiver.settings.add_flow(request(model.Rule(raw=(b"\x02", b"\xff"), drop=True)))
    receiver.reset()
    assert len(exchange(sender, receiver, frames, len(frames))) == len(frames)


def test_refusal_of_a_rule_says_why(drivers: tuple[VfDriver, VfDriver]) -> None:
    _, receiver = drivers
    drop_all = request(model.Rule(raw=(b"\x02", b"\xff"), drop=True))
    receiver.settings.add_flow(drop_all)
    with pytest.raises(FlowRefused, match="FAILURE_RULE_EXIST"):
        receiver.settings.add_flow(drop_all)
    with pytest.raises(FlowRefused, match="FAILURE_RULE_NONEXIST"):
        receiver.settings.remove_flow(5)
