"""emuiavf: a software Intel Adaptive Virtual Function NIC (8086:1889) served over vfio-user."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emuiavf.app import Backend

__all__ = ["Backend"]


def __getattr__(name: str) -> Any:
    # Late: a guest process or `emuiavf stats` needs one module of the package, not the backend.
    if name == "Backend":
        from emuiavf.app import Backend

        return Backend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
