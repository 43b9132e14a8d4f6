cdef class AnswerHead:
    cdef public int status
    cdef public list headers


cdef class AnswerHeads:
    cdef public dict _known

    cpdef tuple read(self, bytes data)
    cdef AnswerHead _learn(self, bytes others, bytes data, Py_ssize_t at)
