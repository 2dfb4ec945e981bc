"""The kinds of ports: the endpoints that are not a device.  Each kind registers one row here.

The wiring finds a kind by the `type=` of a port string and never imports it by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from emuiavf.emudev.vdev import OptionTable
from emuiavf.errors import ConfigError
from emuiavf.stats import Table


class Port(Protocol):
    """An `Endpoint` that owns something."""

    def close(self) -> None:
        """Give back fds and memory; the engine has let go of the port before."""


@dataclass(frozen=True)
class PortKind:
    """`create(name, options, rows)`: `options` are the values of `options`; `rows` are the
    counters by `stats.PORT_ROWS`."""

    options: OptionTable
    create: Callable[[str, dict[str, Any], Table], Port]


kinds: dict[str, PortKind] = {}
"""By the value of `type=`."""


def find_kind(name: str) -> PortKind:
    """The kind of that name; ConfigError names those that there are."""
    kind = kinds.get(name)
    if kind is None:
        raise ConfigError(f"no port type {name!r}; there are {', '.join(sorted(kinds))}")
    return kind
