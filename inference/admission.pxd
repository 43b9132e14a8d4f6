from inference.asking cimport Asking, Reservation
from inference.digits cimport digits
from inference.journal cimport Journal
from inference.ledger_link cimport LedgerLink, counted
from inference.routing cimport Caller
from inference.waiting cimport WaitingRoom
from vllm_portal.ids cimport new_id


cdef class Admission:
    cdef public LedgerLink link
    cdef public object _loop
    cdef public WaitingRoom room
    cdef public Journal journal
    cdef public bytes _lease_ms
    cdef public object _load
    cdef public set _loading
    cdef public dict _open
    cdef public list _unsettled
    cdef public set _touched
    cdef public list _doubtful
    cdef public Py_ssize_t _settling
    cdef public double _wall_ms

    cpdef now_ms(self)
    cpdef Asking ask(self, Caller caller, done, prompt_tokens, generated_tokens, step=*, slice_tokens=*, bytes about=*, str request_id=*)
    cpdef Reservation opened(self, Asking asking, bytes answer)
    cpdef settle(self, Reservation reservation, prompt_tokens, generated_tokens, str outcome, bint exact, cached_tokens=*, first_token_ms=*)
