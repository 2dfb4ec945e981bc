from emuiavf.datapath._endpoint import Endpoint
from emuiavf.datapath._switch import Learned

class SwitchTable:
    def __init__(
        self, members: list[Endpoint | None], learned: Learned | None = None, storm: int = 0
    ) -> None: ...
