from emuiavf.emudev.info import RxFilter

class SourceRef:
    index: int
    owner: object
    def set_member(self, member: int) -> None: ...

class Endpoint:
    name: str
    number: int
    polled: bool
    rx_filter: RxFilter | None
    def active_sources(self) -> list[SourceRef]: ...
