cdef class WaitingRoom:
    cdef public object _loop
    cdef public double _wait_s
    cdef public Py_ssize_t _most
    cdef public dict _lines
    cdef public object _timer

    cpdef bint is_line(self, tuple place) except *
    cpdef bint stay(self, one) except *
    cpdef leave(self, one)
    cpdef wake(self, user_id)
