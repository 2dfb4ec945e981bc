"""JSON-RPC 2.0 by its specification, and bytes that are none of it."""

import json
from typing import Any

import pytest

from emuiavf.control import rpc
from emuiavf.control.methods import Method, Reset, Set
from emuiavf.errors import ConfigError


class Target:
    """Remembers what was asked; refuses what concerns `bad`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def call(self, method: Method, params: Any) -> Any:
        if params.vf == "bad":
            raise ConfigError("bad: no such VF")
        self.calls.append((method.name, params))
        return {"done": method.name}


@pytest.fixture
def target() -> Target:
    return Target()


def ask(target: Target, **members: Any) -> Any:
    data = rpc.respond(json.dumps({"jsonrpc": "2.0", **members}).encode(), target.call)
    return json.loads(data) if data else None


def code(answer: Any) -> int:
    assert set(answer) == {"jsonrpc", "id", "error"}
    return int(answer["error"]["code"])


@pytest.mark.parametrize("number", [1, "one", None, 1.5])
def test_answer_has_the_id_of_its_request(target: Target, number: Any) -> None:
    answer = ask(target, id=number, method="reset", params={"vf": "vf0"})
    assert answer == {"jsonrpc": "2.0", "id": number, "result": {"done": "reset"}}
    assert target.calls == [("reset", Reset("vf0"))]


def test_parameters_by_place(target: Target) -> None:
    ask(target, id=1, method="set", params=["vf0", "02:00:00:00:00:01", 7])
    assert target.calls == [("set", Set(vf="vf0", mac="02:00:00:00:00:01", vlan=7))]


def test_parameters_by_name_as_on_the_command_line(target: Target) -> None:
    ask(target, id=1, method="set", params={"vf": "vf0", "link-state": "disable", "max-rate": 10})
    assert target.calls == [("set", Set(vf="vf0", link_state="disable", max_rate=10))]


def test_notification_is_carried_out_and_not_answered(target: Target) -> None:
    assert ask(target, method="reset", params=["vf0"]) is None
    assert ask(target, method="nonsense") is None
    assert len(target.calls) == 1


def test_batch_is_answered_as_one_without_its_notifications(target: Target) -> None:
    one = {"jsonrpc": "2.0", "method": "reset", "params": ["vf0"]}
    data = rpc.respond(
        json.dumps([{**one, "id": 5}, one, 7, {**one, "id": 6}]).encode(), target.call
    )
    answers = json.loads(data)
    assert [answer["id"] for answer in answers] == [5, None, 6]
    assert code(answers[1]) == rpc.INVALID_REQUEST
    assert len(target.calls) == 3


def test_batch_of_notifications_is_not_answered(target: Target) -> None:
    one = {"jsonrpc": "2.0", "method": "reset", "params": ["vf0"]}
    assert rpc.respond(json.dumps([one, one]).encode(), target.call) == b""


@pytest.mark.parametrize("count", [0, rpc.MAX_BATCH + 1])
def test_batch_without_requests_or_with_too_many(target: Target, count: int) -> None:
    answer = json.loads(
        rpc.respond(json.dumps([{"method": "reset"}] * count).encode(), target.call)
    )
    assert (code(answer), answer["id"]) == (rpc.INVALID_REQUEST, None)


@pytest.mark.parametrize(
    "members",
    [
        {"method": "reset", "jsonrpc": "1.0"},
        {"method": 5},
        {},
        {"method": "reset", "id": []},
        {"method": "reset", "id": True},
    ],
)
def test_what_is_no_request(target: Target, members: dict[str, Any]) -> None:
    answer = ask(target, **{"id": 1, **members})
    assert code(answer) == rpc.INVALID_REQUEST
    assert target.calls == []


def test_unknown_method(target: Target) -> None:
    answer = ask(target, id=1, method="x" * 1000)
    assert code(answer) == rpc.METHOD_NOT_FOUND
    assert len(answer["error"]["message"]) < 100


@pytest.mark.parametrize(
    "params",
    [
        None,
        3,
        {},
        [],
        {"vf": 1},
        {"vf": "vf0", "nonsense": 1},
        {"vf": "vf0", "mac": "02:00"},
        {"vf": "vf0", "vlan": 4095},
        {"vf": "vf0", "qos": 8},
        {"vf": "vf0", "qos": -1},
        {"vf": "vf0", "proto": "802.1x"},
        {"vf": "vf0", "trust": "on"},
        {"vf": "vf0", "max-rate": 100_001},
        {"vf": "vf0", "mtu": 67},
        {"vf": "vf0", "mtu": 9703},
        {"vf": "vf0", "link_state": "auto"},
        ["vf0"] * 20,
    ],
)
def test_wrong_parameters(target: Target, params: Any) -> None:
    assert code(ask(target, id=1, method="set", params=params)) == rpc.INVALID_PARAMS
    assert target.calls == []


def test_refusal_is_told_in_its_words(target: Target) -> None:
    answer = ask(target, id=1, method="reset", params=["bad"])
    assert answer["error"] == {"code": rpc.REFUSED, "message": "bad: no such VF"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nul",
        b"{",
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b"\xff\xfe\x00",
        b"\0" * 1000,
        b'"\\ud800"',
        b'{"id":' + b"9" * 5000 + b"}",
        b'{"id":1e999}',
        b'{"jsonrpc":"2.0","id":1,"method":"reset"} trailing',
    ],
)
def test_what_is_no_json(target: Target, data: bytes) -> None:
    answer = json.loads(rpc.respond(data, target.call))
    assert (code(answer), answer["id"]) == (rpc.PARSE_ERROR, None)
    assert target.calls == []


def test_request_is_what_respond_takes(target: Target) -> None:
    data = rpc.request("set", Set(vf="vf0", trust=False), 9)
    assert json.loads(data)["params"] == {"vf": "vf0", "trust": False}
    assert json.loads(rpc.respond(data, target.call))["id"] == 9
