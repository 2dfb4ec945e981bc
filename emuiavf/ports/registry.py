"""The kinds of ports: the endpoints that are not a device.  Each kind registers one row here.

The wiring finds a kind by the `type=` of a port string and never imports it by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from emuiavf.emudev.vdev import OptionTable
from emuiavf.errors import ConfigError
from emuiavf.stats import PORT_ROWS, Table


@dataclass(frozen=True)
class PortKind:
    """`create(name, options, rows)` makes an `Endpoint` with a `close()`.

    `options` are the values that `options` describes, `rows` the counters by `row_names`.  `close`
    is called when the engine has let go of the port.
    """

    options: OptionTable
    create: Callable[[str, dict[str, Any], Table], Any]
    row_names: tuple[str, ...] = PORT_ROWS


kinds: dict[str, PortKind] = {}
"""By the value of `type=`."""


def find_kind(name: str) -> PortKind:
    """The kind of that name; ConfigError names those that there are."""
    kind = kinds.get(name)
    if kind is None:
        raise ConfigError(f"no port type {name!r}; there are {', '.join(sorted(kinds))}")
    return kind
