"""The keys of an `emu_iavf` vdev string, beside those that say where it is served."""

from emuiavf.emudev import vdev
from emuiavf.iavf.regs import MAX_QUEUE_PAIRS, MAX_VECTORS
from emuiavf.virtchnl.ops import Cap
from emuiavf.virtchnl.resources import GRANTED


def capabilities(text: str) -> Cap:
    """`vlan+rss_pf`: only these, and L2; `-vlan_v2-crc`: all but these.  Names as in virtchnl.

    ValueError for names of nothing that is served, with all that there are.
    """
    removes = text.startswith("-")
    named = Cap.NONE
    for word in text.removeprefix("-").split("-" if removes else "+"):
        cap = Cap.__members__.get(word.upper(), Cap.NONE)
        if not cap & GRANTED or word != word.lower():
            known = ", ".join(str(one.name).lower() for one in GRANTED)
            raise ValueError(f"{word!r} is not one of {known}")
        named |= cap
    return (GRANTED & ~named if removes else named) | Cap.L2


# None: `max-queues` is 16 or, if that is more, `queues`; `vectors` is 17, or 65 with more than 16.
OPTIONS: vdev.OptionTable = {
    "mac": vdev.Option(vdev.mac),
    "queues": vdev.Option(vdev.integer(1, MAX_QUEUE_PAIRS), 4),
    "max-queues": vdev.Option(vdev.integer(1, MAX_QUEUE_PAIRS)),
    "vectors": vdev.Option(vdev.integer(2, MAX_VECTORS)),
    "caps": vdev.Option(capabilities, GRANTED),
    "doorbell": vdev.Option(vdev.choice("mapped", "trap", "shared"), "mapped"),
}
