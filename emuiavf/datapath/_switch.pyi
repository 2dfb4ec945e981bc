from emuiavf.datapath._endpoint import Endpoint
from emuiavf.emudev.info import RxFilter

MAX_MEMBERS: int

def accepts(rx_filter: RxFilter, data: bytes) -> bool: ...
def routes(members: list[Endpoint], member: int, data: bytes) -> list[int]: ...
