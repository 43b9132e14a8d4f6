from inference.admission cimport Admission
from inference.asking cimport Asking, Reservation
from inference.call cimport Call, about
from inference.fair_line cimport Place


cdef class Reserving:
    cdef public object _relay
    cdef public Admission _admission
    cdef public Call _call
    cdef public object _client
    cdef public Asking _asking
    cdef public object _counting
    cdef public Reservation _reservation
    cdef public Place _place
    cdef public object _outstanding
    cdef public object _wanted
    cdef public bint _moved
    cdef public bint ended

    cpdef _aim(self)
    cpdef bint _turn_elsewhere(self) except *
    cpdef _leave(self)
    cdef _ask(self, prompt_tokens, done)
    cpdef _go_on(self, answer)
    cpdef _refuse(self, error)
    cdef _take_turn(self, Reservation reservation)
    cpdef _go(self)
    cpdef _refuse_late(self, error)
    cpdef _withdraw(self)
    cpdef _stop_asking(self)
    cpdef _forward(self)
    cpdef _end(self)
    cpdef _crash(self, fault)
