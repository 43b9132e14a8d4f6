cdef class Callers:
    cdef public object _fetch
    cdef public dict _known
    cdef public Py_ssize_t _forgotten

    cpdef known(self, bytes digest)
