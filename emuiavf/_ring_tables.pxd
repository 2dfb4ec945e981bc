"""See _ring_tables.pyx."""

from emuiavf._ring_vectors cimport VfVectors


cdef class VfTables(VfVectors):
    cdef set _flow_ids
