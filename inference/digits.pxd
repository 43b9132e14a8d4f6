cdef list _SMALL

cpdef bytes digits(long long number)
