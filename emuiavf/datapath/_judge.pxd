"""Declarations of include/judge.h for Cython: every extension that cimports them has its own."""

from libc.stdint cimport uint32_t, uint64_t
from emuiavf.datapath._frame cimport Burst, Frame
from emuiavf.datapath._toeplitz cimport ToeplitzKey


cdef extern from "judge.h" nogil:
    enum:
        FRAME_ASKED
        FRAME_FOUND
    ctypedef struct PlainWish:
        const ToeplitzKey *key
        uint32_t hashed
        uint32_t verdict
    bint plain_parse(Frame *frame) noexcept
    uint32_t plain_judge(Burst *burst, uint32_t mask, const PlainWish *wish,
                         uint64_t *kind) noexcept
    bint plain_judge_use(int kind) noexcept
