cpdef answer_usage(bytes body)


cdef class Events:
    cdef public bytes _rest
    cdef public bint final
    cdef public bint done
    cdef public bint failed

    cpdef feed(self, bytes data)
    cdef _hold(self, bytes rest)
    cpdef _event(self, bytes event)


cdef class Filter(Events):
    cdef public dict _known
    cdef public bytes _held
    cdef public bint _keep_usage
    cdef public bint keeps_usage
    cdef public bint _keep_continuous
    cdef public Py_ssize_t _choices
    cdef public bint _usual
    cdef public Py_ssize_t _choices_per_prompt
    cdef public dict _per_choice
    cdef public bytes _latest
    cdef public object _counts
