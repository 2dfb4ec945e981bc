from typing import Any

import numpy as np
from numpy.typing import NDArray

from emuiavf.emudev.vdev import Option
from emuiavf.ports._port import Port

OPTIONS: dict[str, Option]

def create(name: str, values: dict[str, Any], rows: NDArray[np.uint64] | None = None) -> Tap: ...

class Tap(Port):
    @property
    def ifname(self) -> str: ...
    @property
    def fd(self) -> int: ...
    def __init__(
        self,
        name: str,
        fd: int,
        ifname: str,
        max_frame: int = 0,
        rows: NDArray[np.uint64] | None = None,
        large_udp: bool = True,
    ) -> None: ...
