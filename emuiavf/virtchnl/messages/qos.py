"""Quality of service: traffic classes, rates of Tx queues, and how long their turns are."""

from typing import Annotated

from emuiavf.layout import S32, U8, U16, U32, Wire, wire


@wire(size=4)
class QosCapList(Wire):
    """Reply of GET_QOS_CAPS: header of a list of `QosCap`."""

    vsi_id: U16
    num_elem: U16


@wire(size=40)
class QosCap(Wire):
    """One traffic class; `tc_prio` has a bit for each user priority, rates are in Kb/s."""

    tc_num: U8
    tc_prio: U8
    arbiter: U8
    weight: U8
    type: S32
    committed: U32
    peak: Annotated[int, "I24x"]


@wire(size=8)
class QueueTcMap(Wire):
    """CONFIG_QUEUE_TC_MAP: header of a list of `TcQueues`; of `TcPriorities` in its reply."""

    vsi_id: U16
    num_tc: U16 = 0
    num_queue_pairs: Annotated[int, "H2x"] = 0


@wire(size=4)
class TcQueues(Wire):
    """The queue pairs of one traffic class."""

    start_queue_id: U16
    queue_count: U16


@wire(size=4)
class TcPriorities(Wire):
    """The priorities of one traffic class; `prio_type` 0 stands for those of VLAN tags."""

    prio_type: U16
    valid_prio_bitmap: U16


@wire(size=4)
class QueueBwList(Wire):
    """CONFIG_QUEUE_BW: header of a list of `QueueBw`."""

    vsi_id: U16
    num_queues: U16 = 0


@wire(size=12)
class QueueBw(Wire):
    """The rates of one Tx queue in Kb/s; 0 is none."""

    queue_id: U16
    tc: Annotated[int, "Bx"]
    committed: U32
    peak: U32


@wire(size=12)
class QuantaConfig(Wire):
    """CONFIG_QUANTA: of `num_queues` Tx queues from `start_queue_id` on."""

    quanta_size: Annotated[int, "H2x"]
    type: S32
    start_queue_id: U16
    num_queues: U16
