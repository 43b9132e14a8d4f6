cpdef bint holds_media(str field, bytes raw) except *
