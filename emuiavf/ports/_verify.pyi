from typing import Any

import numpy as np
import numpy.typing as npt

from emuiavf.emudev.vdev import Option
from emuiavf.ports._port import Port

class Verifier(Port):
    OPTIONS: dict[str, Option]
    def __init__(self, name: str, values: dict[str, Any], rows: npt.NDArray[np.uint64]) -> None: ...
