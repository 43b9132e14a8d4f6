cdef class Call:
    cdef public object caller
    cdef public object route
    cdef public object endpoint
    cdef public object body
    cdef public str request_id
    cdef public str name
    cdef public bint own_id
