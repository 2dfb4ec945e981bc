"""A data path that writes down what it is told."""

from collections.abc import Callable
from typing import Any

from emuiavf.errors import MemoryFault


class RecordingSink:
    """Keeps every Sink call as (name, arguments); `refuse` names one that fails."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refuse = ""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)

        def record(*args: Any) -> None:
            if name == self.refuse:
                raise MemoryFault(f"{name} refused")
            self.calls.append((name, *args))

        return record

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]
