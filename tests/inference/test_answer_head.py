"""Answers whose head is known beforehand to have no surprises; whatever else is the parser's to read."""

import pytest

from inference.answer_head import AnswerHeads

DATE = b"date: Mon, 30 Nov 2026 13:00:00 GMT\r\n"


def answer(*lines: bytes, status: bytes = b"200 OK", body: bytes = b'{"a":1}') -> bytes:
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, b"".join(line + b"\r\n" for line in lines), body)


def length(body: bytes = b'{"a":1}') -> bytes:
    return b"content-length: %d" % len(body)


def told(data: bytes, heads: AnswerHeads | None = None):
    read = (heads or AnswerHeads()).read(data)
    return None if read is None else (read[0].status, read[0].headers, data[read[1] :])


def test_what_counts_of_a_usual_answer():
    data = answer(DATE[:-2], b"server: uvicorn", length(), b"content-type: application/json")
    assert told(data) == (200, [(b"content-type", b"application/json")], b'{"a":1}')
    refused = answer(b"content-type: application/json", length(b"no"), status=b"400 Bad Request", body=b"no")
    assert told(refused) == (400, [(b"content-type", b"application/json")], b"no")
    assert told(answer(length(b""), body=b"")) == (200, [(b"content-type", b"")], b"")


def test_a_head_that_is_remembered_is_read_as_at_first():
    """Bodies of all lengths, with the same head: the remembered one must not tell another's length."""
    heads = AnswerHeads()
    for _ in range(2):
        for size in [*range(130), 999, 1000, 99_999, 100_000]:
            body = b"x" * size
            assert told(answer(length(body), b"server: vllm", body=body), heads)[2] == body
    assert len(heads._known) == 1


def test_those_that_are_remembered_are_bounded():
    heads = AnswerHeads()
    for number in range(1000):
        assert told(answer(b"x-request-id: %d" % number, length()), heads)
    assert len(heads._known) <= 256


@pytest.mark.parametrize(
    "data",
    [
        answer(length(b"four"), body=b"five!"),
        answer(length(b"four"), body=b"six"),
        answer(length(), b"connection: close"),
        answer(length(), b"transfer-encoding: chunked"),
        answer(length(), b"content-encoding: gzip"),
        answer(length(), length()),
        answer(length(), b"set-cookie: a=b"),
        answer(b"server: content-length: 7", b"content-length: 70"),
        answer(b"server: content-length: 7"),
        answer(b"content-length: 07 ", body=b"{}"),
        answer(b"content-length: +7"),
        answer(b"content-length:7"),
        answer(b"content-length: 7\n"),
        answer(length(), status=b"204 No Content"),
        answer(length(), status=b"304 Not Modified"),
        answer(length(), status=b"100 Continue"),
        answer(b"date: " + b"x" * 1100, length()),
        b"HTTP/1.1 200 OK\r\ncontent-length: 37",
        b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"",
    ],
)
def test_what_is_unusual_is_left_to_the_parser(data):
    heads = AnswerHeads()
    assert told(answer(length(), b"server: uvicorn"), heads), "one is remembered"
    assert told(data, heads) is None
    assert told(data, heads) is None


@pytest.mark.parametrize("cut", [1, 10, 20, 40])
def test_a_part_of_an_answer_is_left_to_the_parser(cut):
    heads = AnswerHeads()
    data = answer(DATE[:-2], length(), b"server: uvicorn")
    assert told(data, heads)
    assert told(data[:-cut], heads) is None
    assert told(data + b"x" * cut, heads) is None
