"""Rates and turns of Tx queues: GET_QOS_CAPS, CONFIG_QUEUE_TC_MAP, CONFIG_QUEUE_BW, CONFIG_QUANTA.

There is one traffic class, with all priorities and all queues, as on a port of ice without DCB: its
rates are those that the host has given the VF.
"""

from dataclasses import replace

from emuiavf.emudev.info import DEFAULT_QUANTA
from emuiavf.virtchnl.messages import (
    Listing,
    QosCap,
    QosCapList,
    QuantaConfig,
    QueueBw,
    QueueTcMap,
    TcPriorities,
)
from emuiavf.virtchnl.state import VSI_ID, Vf, check

NUM_TC = 1
ALL_PRIORITIES = 0xFF
RATES = range(500, 100_000_000 + 1)
"""Kb/s that a queue can be limited to, as in ice."""
QUANTA = range(256, 4096 + 1, 64)

_KBPS = 1000  # the host's rates are in Mb/s


def on_get_qos_caps(vf: Vf, msg: None) -> bytes:
    """GET_QOS_CAPS: strict priority (of one class: none), `committed` and `peak` of the host."""
    policy = vf.policy
    cap = QosCap(
        tc_num=0,
        tc_prio=ALL_PRIORITIES,
        arbiter=0,
        weight=0,
        type=0,
        committed=policy.min_rate * _KBPS,
        peak=policy.max_rate * _KBPS,
    )
    return QosCapList(VSI_ID, NUM_TC).encode() + cap.encode()


def on_config_queue_tc_map(vf: Vf, msg: Listing) -> bytes:
    """CONFIG_QUEUE_TC_MAP: which queue pairs are of which class, answered by its priorities."""
    head: QueueTcMap = msg.head
    vf.check_vsi(head.vsi_id)
    check(head.num_tc <= NUM_TC, f"num_tc={head.num_tc}, there is {NUM_TC}")
    _check_count(vf, "num_queue_pairs", head.num_queue_pairs)
    mapped = sum(tc.queue_count for tc in msg.items)
    check(
        mapped == head.num_queue_pairs,
        f"{mapped} queue pairs in classes, num_queue_pairs={head.num_queue_pairs}",
    )
    return head.encode() + TcPriorities(0, ALL_PRIORITIES).encode()


def on_config_queue_bw(vf: Vf, msg: Listing) -> bytes:
    """CONFIG_QUEUE_BW: hold each queue named to its peak rate, or to none.

    DPDK fills its list with entries of zeros, which name queue 0, for queues without a rate: such
    an entry does not end a limit that the same message sets.
    """
    entries: tuple[QueueBw, ...] = msg.items
    vf.check_vsi(msg.head.vsi_id)
    _check_count(vf, "num_queues", len(entries))
    for entry in entries:
        _check_rates(vf, entry)
    peaks = {**vf.config.tx_shaping.peaks, **dict.fromkeys((e.queue_id for e in entries), 0)}
    peaks |= {entry.queue_id: entry.peak for entry in entries if entry.peak}
    _shape(vf, peaks={queue: peak for queue, peak in peaks.items() if peak})
    return b""


def on_config_quanta(vf: Vf, msg: QuantaConfig) -> bytes:
    """CONFIG_QUANTA: how much a Tx queue sends before it is another's turn.

    As in ice the type of the queues is not looked at, and none named is no error.
    """
    end = msg.start_queue_id + msg.num_queues
    _check_count(vf, "last queue", end)
    check(msg.quanta_size in QUANTA, f"quanta_size={msg.quanta_size}")
    changed = dict.fromkeys(range(msg.start_queue_id, end), msg.quanta_size)
    quanta = {**vf.config.tx_shaping.quanta, **changed}
    _shape(vf, quanta={queue: size for queue, size in quanta.items() if size != DEFAULT_QUANTA})
    return b""


def _check_count(vf: Vf, name: str, count: int) -> None:
    check(count <= vf.num_queue_pairs, f"{name}={count}, this VF has {vf.num_queue_pairs} pairs")


def _check_rates(vf: Vf, entry: QueueBw) -> None:
    """ice compares Kb/s with the host's Mb/s; here both are the same unit."""
    _check_count(vf, "queue_id + 1", entry.queue_id + 1)
    check(entry.tc < NUM_TC, f"tc={entry.tc}, there is {NUM_TC}")
    check(not entry.peak or entry.peak in RATES, f"peak={entry.peak} Kb/s")
    most, least = vf.policy.max_rate * _KBPS, vf.policy.min_rate * _KBPS
    check(not most or entry.peak <= most, f"peak={entry.peak} Kb/s, the VF has {most}")
    check(
        not entry.committed or entry.committed >= least,
        f"committed={entry.committed} Kb/s, the VF has {least}",
    )


def _shape(vf: Vf, **changes: dict[int, int]) -> None:
    shaping = replace(vf.config.tx_shaping, **changes)
    if shaping != vf.config.tx_shaping:
        vf.datapath.set_tx_shaping(shaping)
        vf.update(tx_shaping=shaping)
