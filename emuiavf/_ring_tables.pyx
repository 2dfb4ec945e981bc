"""A VF's data-path half, its tables: filter, RSS, flow rules, VLAN offload, shaping.

What a worker reads of them is built anew and published; see `reclaim` for what it replaces.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from emuiavf._atomic cimport store_seq_ptr
from emuiavf._ring_rate cimport limit_ring
from emuiavf._ring_state cimport LUT_SIZE, STRIP_INNER, RxSet
from emuiavf._ring_vectors cimport VfVectors
from emuiavf.datapath._flow cimport FlowTable, HashTable, flow_build, hash_build
from emuiavf.datapath._frame cimport BURST_BYTES, ETHER_VLAN, RxFilterTable
from emuiavf.datapath._toeplitz cimport ToeplitzKey, toeplitz_prepare, toeplitz_symmetric
from emuiavf.datapath._switch cimport filter_build

from emuiavf.emudev.info import DEFAULT_QUANTA


cdef class VfTables(VfVectors):
    def __cinit__(self, *args, **kwargs):
        self._flow_ids = set()

    def set_filter(self, rx_filter) -> None:
        """Publish an emudev.info.RxFilter; a switch needs an engine publish as well."""
        cdef RxFilterTable *fresh = filter_build(rx_filter, self.policy)
        self._retire(self.run.sink.filter)
        store_seq_ptr(<void **>&self.run.sink.filter, fresh)
        self.rx_filter = rx_filter

    def set_rss(self, rss) -> None:
        """Publish key, lookup table, classes and chosen fields of emudev.info.RssConfig."""
        cdef RxSet *fresh
        cdef HashTable *hashing
        cdef ToeplitzKey *key
        cdef bytes lut = rss.lut
        cdef bytes raw = rss.key
        if len(raw) != 52 or len(lut) not in (64, 512):
            raise ValueError(f"RSS key of {len(raw)} bytes, LUT of {len(lut)}: 52, and 64 or 512")
        hashing = hash_build(rss)
        key = <ToeplitzKey *>calloc(1, sizeof(ToeplitzKey))
        if key == NULL:
            free(hashing)
            raise MemoryError
        toeplitz_prepare(key, <const uint8_t *>raw)
        if rss.symmetric:
            toeplitz_symmetric(key)
        fresh = self._new_set()
        self._retire(fresh.key)
        self._retire(fresh.hashing)
        fresh.key = key
        fresh.hashing = hashing
        fresh.chosen = hashing != NULL or fresh.rules != NULL
        fresh.hena = rss.hena
        lut *= LUT_SIZE // len(lut)
        memcpy(fresh.lut, <const uint8_t *>lut, LUT_SIZE)
        self._publish_set(fresh)

    def set_flows(self, rules) -> None:
        """Publish (emudev.info.FlowRule, ...) in the order in which they are to be tried.

        The counter of a rule begins when its id becomes known.
        """
        cdef FlowTable *table = flow_build(rules)
        cdef RxSet *fresh
        try:
            fresh = self._new_set()
        except MemoryError:
            free(table)
            raise
        ids = {rule.id for rule in rules}
        for number in ids - self._flow_ids:
            self.run.hits[<int>number] = 0
        self._flow_ids = ids
        if fresh.rules != NULL:
            self._retire(fresh.rules)
        fresh.rules = table
        fresh.chosen = fresh.hashing != NULL or table != NULL
        self._publish_set(fresh)

    def flow_hits(self) -> dict[int, int]:
        """How many frames each rule has matched, by the rule's id."""
        return {number: self.run.hits[<int>number] for number in sorted(self._flow_ids)}

    def set_vlan(self, vlan) -> None:
        """Publish emudev.info.VlanOffload.  Insertion needs a TPID only: descriptors ask for it."""
        cdef RxSet *fresh = self._new_set()
        fresh.strip = <uint32_t>vlan.strip_outer << 16 | (STRIP_INNER if vlan.strip else 0)
        self.run.outer_tpid = vlan.insert_outer or ETHER_VLAN
        self._publish_set(fresh)

    def set_tx_shaping(self, shaping) -> None:
        """Hold each Tx ring to its own rate and turn of emudev.info.TxShaping.

        A worker that has begun a turn may end it by what was before.
        """
        cdef int i
        cdef uint32_t rate, quantum
        for i in range(self.max_queue_pairs):
            rate = shaping.peaks.get(i, 0)
            quantum = min(shaping.quanta.get(i, DEFAULT_QUANTA), DEFAULT_QUANTA)
            limit_ring(&self.run, i, rate, quantum * (BURST_BYTES // DEFAULT_QUANTA))
