from inference.media cimport holds_media, may_hold_media

cdef dict _DECODERS


cdef class Body:
    cdef public dict fields
    cdef public Py_ssize_t size
    cdef public object model
    cdef public bint stream
    cdef public bint keep_usage
    cdef public bint keep_continuous
    cdef public object max_tokens
    cdef public str max_tokens_field
    cdef public bint batch
    cdef public object choices_per_prompt
    cdef public object prompts
    cdef public object choices
    cdef public bint text_only
    cdef public bint generates
    cdef public dict known
    cdef public dict _changes

    cpdef set(self, str key, value)
    cpdef bytes encode(self)
    cpdef value(self, str name, kind)
    cpdef number(self, str name, low, high)


cpdef Body read(bytes data, tuple prompt_fields=*)
