from inference.callers cimport Callers
from inference.digits cimport digits
from inference.exchange cimport Exchange
from inference.outgoing cimport Outgoing
from inference.relay cimport Relay
from inference.request_head cimport Head, Heads
from inference.routing cimport Routes
from inference.upstream cimport chunk
from inference.watch cimport Watch
from vllm_portal.ids cimport new_id

cdef dict _LINES
cdef Heads _heads


cdef class Front:
    cdef public tuple _server
    cdef public object _connections
    cdef public object _state
    cdef public object _loop
    cdef public object _plain
    cdef public object _plane
    cdef public Callers _callers
    cdef public Routes _routes
    cdef public Relay _relay
    cdef public Outgoing _outgoing
    cdef public Watch _watch
    cdef public object _transport
    cdef public bytes _head_bytes
    cdef public Head _head
    cdef public str _identity
    cdef public object _endpoint
    cdef public str _engine_id
    cdef public list _body
    cdef public Py_ssize_t _missing
    cdef public bytes _whole_body
    cdef public bytes _ahead
    cdef public Exchange _exchange
    cdef public bytes _answer_head
    cdef public bint _closing
    cdef public bint _writable
    cdef public Py_ssize_t waiting_since

    cdef _begin(self, bytes data)
    cdef bint _aim(self, bytes line) except *
    cdef _more(self, bytes data)
    cdef _dispatch(self, bytes data)
    cpdef start(self, bytes lines)
    cdef _lines(self, int status, bytes lines, bytes framing)
    cpdef answer(self, bytes data, bytes lines)
    cpdef write(self, bytes data, bint more)
    cpdef fail(self, error)
    cpdef break_off(self, error)
    cdef _close(self)
    cdef _done(self)
    cpdef _go_on(self)
    cpdef give_up(self, Py_ssize_t ticks, Py_ssize_t idle_ticks)
    cdef bint _is_plain(self) except *
    cdef _hand_over(self, bytes data)
