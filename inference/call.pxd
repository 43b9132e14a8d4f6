from inference.body cimport Body
from inference.routing cimport Caller, Route


cdef class Call:
    cdef public Caller caller
    cdef public Route route
    cdef public object endpoint
    cdef public Body body
    cdef public str request_id
    cdef public str name
    cdef public bint own_id


cdef dict _salts

cpdef bytes about(Call call)
cpdef prepare(Call call, granted)
cpdef str cache_salt(user_id)
