"""The keys of an `emu_iavf` vdev string, beside those that say where it is served."""

from emuiavf.emudev import vdev
from emuiavf.iavf.regs import MAX_QUEUE_PAIRS
from emuiavf.virtchnl.state import MAX_PLAIN_QUEUE_PAIRS

OPTIONS: vdev.OptionTable = {
    "mac": vdev.Option(vdev.mac),
    "queues": vdev.Option(vdev.integer(1, MAX_PLAIN_QUEUE_PAIRS), 4),
    "max-queues": vdev.Option(vdev.integer(1, MAX_QUEUE_PAIRS), MAX_PLAIN_QUEUE_PAIRS),
    "doorbell": vdev.Option(vdev.choice("mapped", "trap", "shared"), "mapped"),
}
