from inference.routing cimport Caller


cdef class Callers:
    cdef public object _fetch
    cdef public dict _known
    cdef public Py_ssize_t _forgotten

    cpdef Caller known(self, bytes digest)
