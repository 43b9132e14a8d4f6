from inference.breaker cimport Breaker
from inference.fair_line cimport FairLine


cdef class Route:
    cdef public str engine_id
    cdef public str name
    cdef public str model
    cdef public object owner_id
    cdef public bint shared
    cdef public object address
    cdef public bytes authorization
    cdef public object max_model_len
    cdef public str task
    cdef public bint has_chat_template
    cdef public object created
    cdef public frozenset users
    cdef public str adapter
    cdef public str parent
    cdef public object generation
    cdef public bint resting
    cdef public bint comes_back
    cdef public frozenset names
    cdef public frozenset meant
    cdef public str own_name
    cdef public dict heads
    cdef public dict about
    cdef public dict known
    cdef public FairLine line
    cdef public Breaker breaker
    cdef public double tokens_per_s
    cdef public bint gone


cdef class Caller:
    cdef readonly object user_id
    cdef readonly str username
    cdef readonly bint is_admin
    cdef readonly object token_version
    cdef readonly double expires_at
    cdef readonly object key_id
    cdef readonly object key_version
    cdef readonly frozenset models
    cdef readonly bint may_infer
    cdef readonly bint may_wake
    cdef readonly double weight
    cdef readonly bytes session
    cdef readonly tuple subjects
    cdef readonly bytes payers
    cdef readonly bytes rights
    cdef readonly bytes opened
    cdef readonly bytes about


cdef class Routes:
    cdef public object _clock
    cdef public dict _known
    cdef public dict _by_id
    cdef public dict _by_name
    cdef public dict _by_owner
    cdef public dict _adapters
    cdef public object aliases

    cpdef Route find(self, Caller caller, str engine_id, str model, asked=*)


cdef bint _may_use(Caller caller, Route route) except *
