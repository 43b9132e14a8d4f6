cpdef bint may_hold_media(bytes raw) except *
cpdef bint holds_media(str field, bytes raw) except *
