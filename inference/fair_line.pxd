cdef class Place:
    cdef public object user_id
    cdef public double tokens
    cdef public bint batch
    cdef public double weight
    cdef public object go
    cdef public double start
    cdef public object number
    cdef public bint going
    cdef public bint left
    cdef public object timer


cdef class FairLine:
    cdef public Py_ssize_t in_flight
    cdef public Py_ssize_t waiting
    cdef public long long outstanding
    cdef public Py_ssize_t _most
    cdef public Py_ssize_t _usual
    cdef public dict _of_user
    cdef public list _heap
    cdef public bint _moving
    cdef public double _virtual
    cdef public dict _finish

    cpdef bint enter(self, Place place) except *
    cpdef leave(self, Place place)
    cdef _next(self)
    cdef _move(self)
    cdef bint _has_room(self, Place place) except *
    cdef _stamp(self, Place place)
    cdef _start(self, Place place)
