from inference.answer_head cimport AnswerHead, AnswerHeads

cdef list _CHUNK_HEADS
cdef list _SIZES
cdef AnswerHeads _heads


cpdef bytes chunk(bytes data)


cdef class Connection:
    cdef public object _pool
    cdef public object address
    cdef public object _transport
    cdef public object _parser
    cdef public bint dead
    cdef public double idle_since
    cdef public object _taker
    cdef public object _timeouts
    cdef public list _headers
    cdef public Py_ssize_t _head_bytes
    cdef public int _status
    cdef public bint _head_given
    cdef public list _parts
    cdef public bint _complete
    cdef public bint _keep_alive
    cdef public bint _paused
    cdef public bint _bodiless
    cdef public bint _between_chunks
    cdef public double _answer_deadline
    cdef public double _silent_since

    cdef _reset(self)
    cdef _give_whole(self, taker, AnswerHead head, bytes data, Py_ssize_t at)
    cdef _give(self, error)
    cpdef send(self, bytes request, timeouts, taker, bint bodiless=*)
    cpdef abandon(self)
    cpdef pause(self)
    cpdef resume(self)
    cdef _detach(self)
    cpdef abort(self)
    cpdef reuse(self)
    cpdef expire(self, double now)
    cdef _fail(self, error)
