from emuiavf.emudev.info import RxFilter
from emuiavf.policy import VfPolicy

class SourceRef:
    index: int
    owner: object
    def set_member(self, member: int) -> None: ...

class Endpoint:
    name: str
    number: int
    polled: bool
    rx_filter: RxFilter | None
    @property
    def policy(self) -> VfPolicy | None: ...
    def active_sources(self) -> list[SourceRef]: ...
    def set_policy(self, policy: VfPolicy) -> None: ...
