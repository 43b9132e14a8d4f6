from inference.call cimport prepare
from inference.limits cimport rate_lines
from inference.reserving cimport Reserving


cdef class Exchange(Reserving):
    cdef public object _line
    cdef public object _stream
    cdef public int _status
    cdef public Py_ssize_t _size
    cdef public list _parts
    cdef public bint _started
    cdef public bint _paused
    cdef public bint _sliced
    cdef public object _slices
    cdef public object _first_token_ms

    cpdef begin(self)
    cpdef pause(self)
    cpdef resume(self)
    cpdef abandon(self)
    cpdef head(self, int status, headers)
    cpdef data(self, bytes data)
    cpdef end(self)
    cdef bint _in_slices(self, slices, bytes data) except *
    cdef _collect(self, bytes data)
    cdef _finish(self)
    cdef _answer(self, bytes data)
    cdef _rates(self)
    cdef _fail(self, error)
    cdef _break_off(self, error)
    cdef _tell(self, error)
    cdef _settle_stream(self, stream)
