import mmap

class CopyRing:
    def __init__(
        self,
        memory: mmap.mmap | memoryview | bytearray,
        *,
        slots: int,
        stride: int,
        size: int,
        in_flight: int,
    ) -> None: ...
    @staticmethod
    def memory_needed(slots: int, stride: int) -> int: ...
    def produce(self) -> int: ...
    def consume(self) -> int: ...
    def stop(self) -> None: ...
