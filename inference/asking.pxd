from inference.routing cimport Caller


cdef class Reservation:
    cdef public Caller caller
    cdef public bytes request_id
    cdef public bytes meta
    cdef public object prompt_tokens
    cdef public object generated_tokens
    cdef public double started
    cdef public object told
    cdef public bytes holds
    cdef public object seen
    cdef public tuple checkpoint
    cdef public bint extended
    cdef public bint settled


cdef class Asking:
    cdef public object _admission
    cdef public Caller caller
    cdef public bytes request_id
    cdef public bytes meta
    cdef public object prompt_tokens
    cdef public object _least
    cdef public bytes _operation
    cdef public object _done
    cdef public Py_ssize_t _loads
    cdef public bint _cancelled
    cdef public object _last
    cdef public tuple place
    cdef public bint in_flight
    cdef public double deadline

    cpdef cancel(self)
    cpdef ask(self)
