cdef class Watch:
    cdef public double _pause_s
    cdef public Py_ssize_t _idle_ticks
    cdef public set _connections
    cdef public Py_ssize_t tick

    cpdef begin(self, connection)
    cpdef end(self, connection)
