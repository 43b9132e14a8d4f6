"""Numbers as the bytes that protocols and JSON write them in. Most are small, and small ones are kept ready: to look
one up costs a tenth of a format."""

_KNOWN = 4096
_SMALL = [b"%d" % number for number in range(_KNOWN)]


def digits(number: int) -> bytes:
    """In base ten."""
    return _SMALL[number] if 0 <= number < _KNOWN else b"%d" % number
