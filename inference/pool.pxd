from inference.digits cimport digits
from inference.outgoing cimport Outgoing
from inference.upstream cimport Connection


cdef class Pool:
    cdef public object loop
    cdef public Outgoing outgoing
    cdef public bint short
    cdef public set busy
    cdef public set connecting
    cdef public dict _idle
    cdef public object _sweeper

    cpdef post(self, address, bytes head, bytes body, timeouts, taker)
    cpdef request(self, address, bytes request, timeouts, taker, bint bodiless=*)
    cdef Connection _fresh(self, address)
    cpdef take_back(self, Connection connection)
