"""GET_STATS: the counters of the VF, which the data path keeps."""

from dataclasses import astuple

from emuiavf.virtchnl.messages import QueueSelect, StatsReply
from emuiavf.virtchnl.state import Vf


def on_get_stats(vf: Vf, msg: QueueSelect) -> bytes:
    """GET_STATS: 96 bytes, whether queues run or not."""
    vf.check_vsi(msg.vsi_id)
    return StatsReply(*astuple(vf.datapath.eth_stats())).encode()
