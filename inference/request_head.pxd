cdef class Head:
    cdef public bytes token
    cdef public bytes token_digest
    cdef public str identity
    cdef public bint close


cdef class Heads:
    cdef public Py_ssize_t _most
    cdef public dict _known

    cpdef read(self, bytes fields)
    cdef Head _learn(self, bytes others)
