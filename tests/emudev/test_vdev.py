"""vdev strings and option tables."""

from collections.abc import Callable
from typing import Any

import pytest

from emuiavf.emudev import vdev
from emuiavf.emudev.vdev import Option, VdevArgs
from emuiavf.errors import ConfigError

TABLE = {
    "path": Option(vdev.text, required=True),
    "queues": Option(vdev.integer(1, 16), default=4),
    "trust": Option(vdev.switch, default=False),
}


def test_parse_takes_name_driver_and_options_apart() -> None:
    assert vdev.parse("emu_iavf0,path=vf0.sock,mac=52:54:00:12:34:56") == VdevArgs(
        "emu_iavf", "emu_iavf0", {"path": "vf0.sock", "mac": "52:54:00:12:34:56"}
    )


def test_parse_name_alone() -> None:
    assert vdev.parse("emu_iavf12") == VdevArgs("emu_iavf", "emu_iavf12", {})


def test_parse_value_may_hold_an_equals_sign() -> None:
    assert vdev.parse("a0,path=x=y").options == {"path": "x=y"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a name"),
        ("0dev", "is not a name"),
        ("../x", "is not a name"),
        ("a" * 64, "is not a name"),
        ("a0,", "'' is not key=value"),
        ("a0,path", "'path' is not key=value"),
        ("a0,=x", "'=x' is not key=value"),
        ("a0,mac=1,mac=2", "mac= is there twice"),
    ],
)
def test_parse_refuses_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        vdev.parse(text)


def test_resolve_fills_in_defaults() -> None:
    values = vdev.resolve(vdev.parse("a0,path=x"), TABLE)
    assert values == {"path": "x", "queues": 4, "trust": False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a0", "a0: path= is missing"),
        ("a0,path=", "a0: path=: must not be empty"),
        ("a0,path=x,queues=17", "a0: queues=17: at most 16"),
        ("a0,path=x,queues=0", "a0: queues=0: at least 1"),
        ("a0,path=x,queues=four", "a0: queues=four: not a number"),
        ("a0,path=x,trust=maybe", "a0: trust=maybe: must be on or off"),
        ("a0,path=x,quues=4", "a0: no option 'quues'; there are path, queues, trust"),
    ],
)
def test_resolve_names_the_fault(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        vdev.resolve(vdev.parse(text), TABLE)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (vdev.integer(0, 4096), "0x1000", 4096),
        (vdev.choice("mapped", "trap"), "trap", "trap"),
        (vdev.switch, "on", True),
        (vdev.switch, "0", False),
        (vdev.mac, "52:54:00:ab:CD:ef", bytes.fromhex("525400abcdef")),
    ],
)
def test_option_values(parse: Callable[[str], Any], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    "text", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "52:54:00:12:34", "5254.0012.3456", "x"]
)
def test_mac_must_be_a_unicast_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"unicast|six bytes"):
        vdev.mac(text)


def test_choice_names_the_words() -> None:
    with pytest.raises(ValueError, match="must be one of mapped, trap"):
        vdev.choice("mapped", "trap")("shared")
