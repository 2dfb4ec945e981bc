"""A VF's data-path half, what the host imposes: its policy, a rate, and faults for those who write
drivers."""

from libc.stdint cimport uint32_t

from emuiavf._atomic cimport exchange_u32, load_relaxed_u32, store_seq_u32, swap_if_u32
from emuiavf._eventfd cimport event_signal_foreign
from emuiavf._ring_base cimport FAULT_TOLD
from emuiavf._ring_put cimport vf_put
from emuiavf._ring_rate cimport limit_vf, promise_vf
from emuiavf._ring_spoil cimport vf_put_spoilt
from emuiavf._ring_state cimport FAULT_NONE
from emuiavf._ring_tables cimport VfTables

from emuiavf.emudev.info import RxFilter


# Mb/s that fit where Kb/s are kept.
cdef enum:
    KBPS = 1000
    MAX_RATE = 4_000_000


cdef class VfHosted(VfTables):
    cpdef object set_policy(self, policy):
        """What the host decided: see Engine.set_policy, which publishes the rest of it."""
        self.policy = policy
        promise_vf(&self.run, policy.min_rate * KBPS)
        self.set_filter(self.rx_filter or RxFilter())

    def set_rate(self, uint32_t max_rate) -> None:
        """Hold frames in the Tx rings so that all of them together send at most so many Mb/s; 0
        ends that.  A worker that has begun a turn may end it by the old limit."""
        if max_rate > MAX_RATE:
            raise ValueError(f"{max_rate} Mb/s: at most {MAX_RATE}")
        limit_vf(&self.run, max_rate * KBPS)

    @property
    def interrupts_left(self) -> int:
        """Interrupts still to be lost."""
        return load_relaxed_u32(&self.run.lose_irqs)

    @property
    def interrupts_missing(self) -> bool:
        """Whether a vector's interrupt was lost and not repeated."""
        return any(self.run.vectors[<int>v].lost for v in range(self.num_vectors))

    def lose_interrupts(self, uint32_t count) -> None:
        """Lose the next interrupts: the guest's vectors are disarmed, and nobody is told."""
        store_seq_u32(&self.run.lose_irqs, count)

    def repeat_interrupts(self) -> None:
        """Send what was lost, as `set_bus_master` does."""
        cdef int v
        for v in range(self.num_vectors):
            if (exchange_u32(&self.run.vectors[v].lost, 0) and self.run.bus_master
                    and self.run.vectors[v].fd >= 0):
                event_signal_foreign(self.run.vectors[v].fd)

    @property
    def corruptions_left(self) -> int:
        """Received frames still to be spoilt."""
        return load_relaxed_u32(&self.run.spoil)

    def corrupt_received(self, uint32_t count) -> None:
        """Turn a bit in each of the next received frames; see _ring_spoil."""
        store_seq_u32(&self.run.spoil, count)
        self.run.sink.put = vf_put_spoilt if count else vf_put

    @property
    def tx_hangs(self) -> bool:
        """Whether a Tx queue stands still because of `hang_tx`."""
        return any(self.tx[<int>i].fault == FAULT_TOLD for i in range(self.max_queue_pairs))

    def hang_tx(self, bint hang) -> None:
        """Have the Tx queues that are enabled stand still, until this ends it or they are
        configured anew."""
        cdef int i
        for i in range(self.max_queue_pairs):
            if not hang:
                swap_if_u32(&self.tx[i].fault, FAULT_TOLD, FAULT_NONE)
            elif self.tx[i].enabled:
                swap_if_u32(&self.tx[i].fault, FAULT_NONE, FAULT_TOLD)
