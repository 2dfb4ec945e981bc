"""The numbers of virtchnl 1.1: opcodes, statuses, capabilities, events and flag words.

Only names and values; who may send what, and how long it is, stands in `messages` and `session`.
Source: virtchnl.h as spoken by ice and the iavf drivers.
"""

from enum import IntEnum, IntFlag

VERSION_MAJOR = 1
VERSION_MINOR = 1

MAX_MESSAGE = 4096
"""Bytes of the largest message: every driver posts admin queue buffers of this size."""

RSS_KEY_SIZE = 52
RSS_LUT_SIZE = 64
RSS_LUT_SIZE_LARGE = 512
"""Entries of the table of a VF with more than 16 queue pairs, as in ice."""
MAX_FRAME = 9728
"""What `max_mtu` of GET_VF_RESOURCES reports: the largest frame without FCS, not an MTU."""


class Op(IntEnum):
    """Virtchnl opcodes (cookie high of the admin queue descriptor)."""

    UNKNOWN = 0
    VERSION = 1
    RESET_VF = 2
    GET_VF_RESOURCES = 3
    CONFIG_TX_QUEUE = 4
    CONFIG_RX_QUEUE = 5
    CONFIG_VSI_QUEUES = 6
    CONFIG_IRQ_MAP = 7
    ENABLE_QUEUES = 8
    DISABLE_QUEUES = 9
    ADD_ETH_ADDR = 10
    DEL_ETH_ADDR = 11
    ADD_VLAN = 12
    DEL_VLAN = 13
    CONFIG_PROMISCUOUS_MODE = 14
    GET_STATS = 15
    EVENT = 17
    CONFIG_RSS_HFUNC = 18
    RDMA = 20
    CONFIG_RDMA_IRQ_MAP = 21
    RELEASE_RDMA_IRQ_MAP = 22
    CONFIG_RSS_KEY = 23
    CONFIG_RSS_LUT = 24
    GET_RSS_HENA_CAPS = 25
    SET_RSS_HENA = 26
    ENABLE_VLAN_STRIPPING = 27
    DISABLE_VLAN_STRIPPING = 28
    REQUEST_QUEUES = 29
    ENABLE_CHANNELS = 30
    DISABLE_CHANNELS = 31
    ADD_CLOUD_FILTER = 32
    DEL_CLOUD_FILTER = 33
    INLINE_IPSEC_CRYPTO = 34
    GET_SUPPORTED_RXDIDS = 44
    ADD_RSS_CFG = 45
    DEL_RSS_CFG = 46
    ADD_FDIR_FILTER = 47
    DEL_FDIR_FILTER = 48
    GET_MAX_RSS_QREGION = 50
    GET_OFFLOAD_VLAN_V2_CAPS = 51
    ADD_VLAN_V2 = 52
    DEL_VLAN_V2 = 53
    ENABLE_VLAN_STRIPPING_V2 = 54
    DISABLE_VLAN_STRIPPING_V2 = 55
    ENABLE_VLAN_INSERTION_V2 = 56
    DISABLE_VLAN_INSERTION_V2 = 57
    ENABLE_VLAN_FILTERING_V2 = 58
    DISABLE_VLAN_FILTERING_V2 = 59
    PTP_GET_CAPS = 60
    PTP_GET_TIME = 61
    GET_QOS_CAPS = 66
    CONFIG_QUEUE_TC_MAP = 67
    ENABLE_QUEUES_V2 = 107
    DISABLE_QUEUES_V2 = 108
    MAP_QUEUE_VECTOR = 111
    CONFIG_QUEUE_BW = 112
    CONFIG_QUANTA = 113
    FLOW_SUBSCRIBE = 114
    FLOW_UNSUBSCRIBE = 115


class Status(IntEnum):
    """Status of a reply (cookie low, signed)."""

    SUCCESS = 0
    ERR_PARAM = -5
    ERR_NO_MEMORY = -18
    ERR_OPCODE_MISMATCH = -38
    ERR_CQP_COMPL_ERROR = -39
    ERR_INVALID_VF_ID = -40
    ERR_ADMIN_QUEUE_ERROR = -53
    NOT_SUPPORTED = -64


class Cap(IntFlag):
    """Capability bits of GET_VF_RESOURCES."""

    NONE = 0
    L2 = 1 << 0
    RDMA = 1 << 1
    RSS_AQ = 1 << 3
    RSS_REG = 1 << 4
    WB_ON_ITR = 1 << 5
    REQ_QUEUES = 1 << 6
    ADV_LINK_SPEED = 1 << 7
    INLINE_IPSEC = 1 << 8
    LARGE_NUM_QPAIRS = 1 << 9
    CRC = 1 << 10
    TC_U32 = 1 << 11
    FSUB_PF = 1 << 14
    VLAN_V2 = 1 << 15
    VLAN = 1 << 16
    RX_POLLING = 1 << 17
    RSS_PCTYPE_V2 = 1 << 18
    RSS_PF = 1 << 19
    ENCAP = 1 << 20
    ENCAP_CSUM = 1 << 21
    RX_ENCAP_CSUM = 1 << 22
    ADQ = 1 << 23
    ADQ_V2 = 1 << 24
    USO = 1 << 25
    RX_FLEX_DESC = 1 << 26
    ADV_RSS_PF = 1 << 27
    FDIR_PF = 1 << 28
    QOS = 1 << 29
    DCF = 1 << 30
    PTP = 1 << 31


class RxqFlag(IntFlag):
    """Flags of a Rx queue in CONFIG_VSI_QUEUES."""

    PTP_RX_TSTAMP = 1


class PtpCap(IntFlag):
    """Bits of 1588_PTP_GET_CAPS."""

    NONE = 0
    TX_TSTAMP = 1 << 0
    RX_TSTAMP = 1 << 1
    READ_PHC = 1 << 2
    WRITE_PHC = 1 << 3
    PHC_REGS = 1 << 4
    SYNCE = 1 << 6
    GNSS = 1 << 7


class VsiType(IntEnum):
    SRIOV = 6


class EventCode(IntEnum):
    """What an EVENT message (17) reports."""

    LINK_CHANGE = 1
    RESET_IMPENDING = 2
    PF_DRIVER_CLOSE = 3


class Severity(IntEnum):
    INFO = 0
    CERTAIN_DOOM = 255


class LinkSpeed(IntEnum):
    """Speed codes of a link event for a VF without ADV_LINK_SPEED."""

    UNKNOWN = 0
    MBPS_2500 = 0x01
    MBPS_100 = 0x02
    MBPS_1000 = 0x04
    MBPS_10000 = 0x08
    MBPS_40000 = 0x10
    MBPS_20000 = 0x20
    MBPS_25000 = 0x40
    MBPS_5000 = 0x80


class EtherAddrType(IntEnum):
    LEGACY = 0
    PRIMARY = 1
    EXTRA = 2


class QueueType(IntEnum):
    TX = 0
    RX = 1


class Promisc(IntFlag):
    NONE = 0
    UNICAST = 1
    MULTICAST = 2


class HashFunc(IntEnum):
    """Algorithms of CONFIG_RSS_HFUNC and ADD_RSS_CFG."""

    TOEPLITZ = 0
    XOR = 1
    SYMMETRIC_TOEPLITZ = 2
    SYMMETRIC_XOR = 3


class Proto(IntEnum):
    """Types of protocol headers in rules (virtchnl_proto_hdr_type)."""

    NONE = 0
    ETH = 1
    S_VLAN = 2
    C_VLAN = 3
    IPV4 = 4
    IPV6 = 5
    TCP = 6
    UDP = 7
    SCTP = 8
    GTPU_IP = 9
    GTPU_EH = 10
    GTPU_EH_PDU_DWN = 11
    GTPU_EH_PDU_UP = 12
    PPPOE = 13
    L2TPV3 = 14
    ESP = 15
    AH = 16
    PFCP = 17
    GTPC = 18
    ECPRI = 19
    L2TPV2 = 20
    PPP = 21
    IPV4_FRAG = 22
    IPV6_EH_FRAG = 23
    GRE = 24


class Action(IntEnum):
    """What a flow director rule does (virtchnl_action)."""

    DROP = 0
    TC_REDIRECT = 1
    PASSTHRU = 2
    QUEUE = 3
    Q_REGION = 4
    MARK = 5
    COUNT = 6


class FdirStatus(IntEnum):
    """What an answer says of a flow director rule (virtchnl_fdir_prgm_status)."""

    SUCCESS = 0
    FAILURE_RULE_NORESOURCE = 1
    FAILURE_RULE_EXIST = 2
    FAILURE_RULE_CONFLICT = 3
    FAILURE_RULE_NONEXIST = 4
    FAILURE_RULE_INVALID = 5
    FAILURE_RULE_TIMEOUT = 6
    FAILURE_QUERY_INVALID = 7


class VlanSupport(IntFlag):
    """Bits of the VLAN v2 capabilities and settings."""

    NONE = 0
    TPID_8100 = 0x1
    TPID_88A8 = 0x2
    TPID_9100 = 0x4
    L2TAG1 = 0x100
    L2TAG2 = 0x200
    L2TAG2_2 = 0x400
    PRIO = 0x0100_0000
    FILTER_MASK = 0x1000_0000
    AND = 0x2000_0000
    XOR = 0x4000_0000
    TOGGLE = 0x8000_0000


HENA_IPV4 = 0xFF << 29
"""UDP (three classes), TCP SYN, TCP, SCTP, other and fragment of IPv4: bits 29..36."""
HENA_IPV6 = 0xFF << 39
"""The same classes of IPv6: bits 39..46."""
HENA_SUPPORTED = HENA_IPV4 | HENA_IPV6

ITR_NONE = 3
"""The ITR index that means: no moderation."""
