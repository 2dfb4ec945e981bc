from typing import Any

import numpy as np
from numpy.typing import NDArray

from emuiavf.emudev.vdev import Option
from emuiavf.ports._port import Port

class Pcap(Port):
    OPTIONS: dict[str, Option]
    @property
    def path(self) -> str: ...
    def __init__(
        self, name: str, values: dict[str, Any], rows: NDArray[np.uint64] | None = None
    ) -> None: ...
