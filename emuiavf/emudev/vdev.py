"""The strings that describe devices and ports, in DPDK's vdev syntax: `name,key=value,...`.

    emu_iavf0,path=vf0.sock,mac=52:54:00:12:34:56,queues=4

The driver of a device is its name without the number at the end.  Which keys there are and what
their values mean is said by a table of `Option`, one per kind of device or port.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from emuiavf.errors import ConfigError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class VdevArgs:
    """A vdev string taken apart; the values of `options` are still text."""

    driver: str
    name: str
    options: dict[str, str]


@dataclass(frozen=True)
class Option:
    """One key: `parse` turns its text into the value and raises ValueError with the reason."""

    parse: Callable[[str], Any]
    default: Any = None
    required: bool = False


OptionTable = Mapping[str, Option]


def parse(text: str) -> VdevArgs:
    """Take a vdev string apart; ConfigError when it is not `name,key=value,...`."""
    name, *pairs = text.split(",")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{text!r}: {name!r} is not a name (letters, digits, '_', '.', '-')")
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ConfigError(f"{name}: {pair!r} is not key=value")
        if key in options:
            raise ConfigError(f"{name}: {key}= is there twice")
        options[key] = value
    return VdevArgs(name.rstrip("0123456789"), name, options)


def resolve(args: VdevArgs, table: OptionTable) -> dict[str, Any]:
    """The value of every option in `table`, defaults filled in; ConfigError names a wrong one."""
    for key in args.options:
        if key not in table:
            raise ConfigError(f"{args.name}: no option {key!r}; there are {', '.join(table)}")
    values: dict[str, Any] = {}
    for key, option in table.items():
        text = args.options.get(key)
        if text is None:
            if option.required:
                raise ConfigError(f"{args.name}: {key}= is missing")
            values[key] = option.default
            continue
        try:
            values[key] = option.parse(text)
        except ValueError as error:
            raise ConfigError(f"{args.name}: {key}={text}: {error}") from None
    return values


def text(value: str) -> str:
    """Any text but the empty one."""
    if not value:
        raise ValueError("must not be empty")
    return value


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    """A whole number, decimal or with 0x, within the two limits."""

    def convert(value: str) -> int:
        try:
            number = int(value, 0)
        except ValueError:
            raise ValueError("not a number") from None
        if number < minimum:
            raise ValueError(f"at least {minimum}")
        if number > maximum:
            raise ValueError(f"at most {maximum}")
        return number

    return convert


def choice(*words: str) -> Callable[[str], str]:
    """One of the given words."""

    def convert(value: str) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return value

    return convert


_SWITCH = {"on": True, "yes": True, "1": True, "off": False, "no": False, "0": False}


def switch(value: str) -> bool:
    """on or off, as `ip link` and DPDK write it."""
    if value not in _SWITCH:
        raise ValueError("must be on or off")
    return _SWITCH[value]


_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


def mac(value: str) -> bytes:
    """A unicast MAC address such as 52:54:00:12:34:56."""
    if not _MAC.fullmatch(value):
        raise ValueError("not six bytes in hexadecimal with ':' between")
    address = bytes.fromhex(value.replace(":", ""))
    if address[0] & 1 or not any(address):
        raise ValueError("not a unicast address")
    return address
