cdef class Journal:
    cdef public str process
    cdef public object _path
    cdef public Py_ssize_t _half
    cdef public int _file
    cdef public object _map
    cdef public Py_ssize_t _at
    cdef public Py_ssize_t _end
    cdef public unsigned long long _number

    cpdef append(self, when_ms, user_id, bytes operation)
