cdef class Routes:
    cdef public object _clock
    cdef public dict _known
    cdef public dict _by_id
    cdef public dict _by_name
    cdef public dict _by_owner
    cdef public dict _adapters
    cdef public object aliases

    cpdef find(self, caller, str engine_id, str model, asked=*)


cdef bint _may_use(caller, route) except *
