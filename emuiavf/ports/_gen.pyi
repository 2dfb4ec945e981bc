from typing import Any

import numpy as np
import numpy.typing as npt

from emuiavf.emudev.vdev import Option
from emuiavf.ports._port import Port

MAX_FLOWS: int
SOURCE_IP: bytes
TARGET_IP: bytes

class Generator(Port):
    OPTIONS: dict[str, Option]
    def __init__(
        self, name: str, values: dict[str, Any], rows: npt.NDArray[np.uint64] | None = None
    ) -> None: ...
