"""The long way: uvicorn's own protocol, as the front of a connection uses it. What uvicorn leaves open is closed here:
a head may not be of any size, and a wish to change to another protocol does not make it stop reading."""

from collections.abc import Callable

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024  # of a request, and of what comes behind its chunks


class Plain(HttpToolsProtocol):
    """Uvicorn's protocol on a connection that is not its own: it gets the requests that it is handed."""

    rested: Callable[[], None]
    """Called when a request has been answered."""
    between = True
    """Requests: none has begun that has not been read whole."""
    _of_head = 0
    """Bytes that came since the parser last gave anything but lines of a head."""

    @property
    def busy(self) -> bool:
        """Whether it is in the middle of a request or of its answer."""
        return not self.between or bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def shutdown(self) -> None:
        """What is idle here, the front closes: it may be answering a request of its own."""
        if self.busy:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        self._of_head += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.data_received(head + data[wish.args[0] :])
        except httptools.HttpParserError:
            self._refuse("Invalid HTTP request received.")
        else:
            if self._of_head > MAX_HEAD:
                self._refuse("The head of the request is too long.")

    def _refuse(self, why: str) -> None:
        self.logger.warning(why)
        self.send_400_response(why)

    def _head_without_upgrade(self) -> bytes:
        """A wish to change to another protocol is passed over, as RFC 9110 (7.8) allows: the head is read again without
        it. The parser takes the body, and all after it, for the other protocol's."""
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([line, *fields, b"\r\n"])

    def on_message_begin(self) -> None:
        self.between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")
        if not self.parser.should_upgrade():
            self._of_head = 0
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._of_head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._of_head = 0
        if not self.parser.should_upgrade():
            self.between = True
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # the front closes what is idle
        self.rested()
