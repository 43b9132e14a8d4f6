cdef list _SIZES
cdef list _LENGTHS

cpdef bytes counted(bytes text)


cdef class LedgerLink:
    cdef public str _url
    cdef public double _timeout_s
    cdef public object _loop
    cdef public object _transport
    cdef public object _reader
    cdef public list _operations
    cdef public list _records
    cdef public list _callbacks
    cdef public list _flight
    cdef public Py_ssize_t _setup_answers
    cdef public bint _armed
    cdef public object _lazy
    cdef public object _watchdog
    cdef public double _sent
    cdef public object _reconnecting
    cdef public object _ended
    cdef public bint _closed
    cdef public bint _was_ready
    cdef public tuple header
    cdef public object on_return

    cpdef send(self, callback, bytes operation)
    cpdef send_along(self, callback, bytes operation, bytes record)
    cdef _arm(self)
    cpdef _flush(self)
    cdef _landed(self, answer)
    cdef _expect(self)
