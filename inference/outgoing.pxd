cdef class Outgoing:
    cdef public object _loop
    cdef public list _waiting

    cpdef write(self, transport, bytes data)
    cpdef flush(self)
