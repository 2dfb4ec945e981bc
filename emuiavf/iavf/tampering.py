"""Requests of a VF that are lost or refused on purpose."""

from collections.abc import Callable

from emuiavf.virtchnl.ops import Op


class Tampering:
    """What is to happen to the next requests; `on_lost` is called after each that is lost."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.lose = 0
        # By opcode: the status, and how often.
        self.refuse: dict[int, tuple[int, int]] = {}
        self._on_lost = on_lost

    def is_lost(self, opcode: int) -> bool:
        """Whether this request is to vanish.  RESET_VF never does: it is how drivers get out."""
        if not self.lose or opcode == Op.RESET_VF:
            return False
        self.lose -= 1
        self._on_lost()
        return True

    def refusal(self, opcode: int) -> int | None:
        """The status that this request is to be refused with."""
        if opcode not in self.refuse:
            return None
        status, count = self.refuse.pop(opcode)
        if count > 1:
            self.refuse[opcode] = (status, count - 1)
        return status
