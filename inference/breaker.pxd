cdef class Breaker:
    cdef public Py_ssize_t _failures
    cdef public double _until

    cpdef bint lets_through(self, double now) except *
    cpdef answered(self)
    cdef double _pause_s(self) except *
