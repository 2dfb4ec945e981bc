from typing import Any

import numpy as np
from numpy.typing import NDArray

from emuiavf.emudev.vdev import Option
from emuiavf.ports._port import Port

class Null(Port):
    OPTIONS: dict[str, Option]
    def __init__(
        self, name: str, values: dict[str, Any], rows: NDArray[np.uint64] | None = None
    ) -> None: ...
