import numpy as np
from numpy.typing import NDArray

from emuiavf.datapath._endpoint import Endpoint

class Port(Endpoint):
    def __init__(self, name: str, rows: NDArray[np.uint64] | None = None) -> None: ...
    @property
    def rows(self) -> NDArray[np.uint64]: ...
    def close(self) -> None: ...
