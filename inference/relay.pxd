from inference.admission cimport Admission
from inference.asking cimport Reservation
from inference.call cimport Call
from inference.fair_line cimport Place
from inference.pool cimport Pool
from inference.routing cimport Route


cdef class Relay:
    cdef public Admission admission
    cdef public object loop
    cdef public Py_ssize_t slice_tokens
    cdef public object _turns
    cdef public object _routes
    cdef public object _asleep
    cdef public Pool _pool
    cdef public object _timeouts
    cdef public set _background
    cdef public set running

    cpdef Place place(self, Call call, Reservation reservation, go, refuse)
    cpdef settle(self, Reservation reservation, usage, str outcome, bint exact, first_token_ms=*)
    cpdef learn_speed(self, Route route, generated_tokens, double elapsed_s)
    cpdef post(self, Route route, str path, bytes body, str request_id, taker)
