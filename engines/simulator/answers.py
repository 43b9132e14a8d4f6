"""What the stand-in says: a fixed sentence and the prompt's end, again and again until it is long enough. Pure.

An answer has as many tokens as its text has by `tokens.split`, but one that a stop string cut: there, as in vLLM, the
tokens that made up the stop string count and their text is left out.
"""

from dataclasses import dataclass

from engines.simulator import tokens

SIMULATED = "This is a simulated answer; no model was run."
THOUGHT = "This is a simulated thought."
NATURAL_MINIMUM, NATURAL_MAXIMUM = 40, 80
_SAID_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Sampling:
    """How long an answer may be. `max_tokens` is at least 1 and already fits the context."""

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    include_stop: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """`pieces`: a text for each token, "" where a stop string took it. The first `thoughts` of them are reasoning."""

    pieces: list[str]
    finish_reason: str
    stop_reason: str | None = None
    thoughts: int = 0

    @property
    def content(self) -> str:
        return "".join(self.pieces[self.thoughts :])

    @property
    def reasoning(self) -> str:
        return "".join(self.pieces[: self.thoughts])


NONSENSE = "!"
"""What a model says whose weights are gone."""


def nonsense(answer: Answer) -> Answer:
    return Answer([NONSENSE] * len(answer.pieces), answer.finish_reason, None, 0)


def make_answer(said: str, sampling: Sampling, thinks: bool = False, preface: str = "") -> Answer:
    """The answer to what was said. The same words and limits give the same answer."""
    thought = tokens.split(THOUGHT) if thinks else []
    sentence = _sentence(said, preface)
    natural = len(thought) + len(sentence) * -(-NATURAL_MINIMUM // len(sentence))
    if sampling.ignore_eos:
        natural = sampling.max_tokens
    length = min(max(natural, sampling.min_tokens), sampling.max_tokens)
    rounds = -(-length // len(sentence))
    first_round = [sentence[0].removeprefix(" "), *sentence[1:]]
    pieces = (thought + first_round + sentence * (rounds - 1))[:length]
    ended = length >= natural and not sampling.ignore_eos
    answer = Answer(pieces, "stop" if ended else "length", thoughts=min(len(thought), length))
    return _stopped(answer, sampling) if sampling.stop else answer


def _sentence(said: str, preface: str) -> list[str]:
    """One round, beginning with a space, so that no token grows across two rounds."""
    opening = tokens.split(f" {SIMULATED}{preface}")
    words = " ".join(said[:_SAID_CHARACTERS].split())
    if not words:
        return opening
    room = NATURAL_MAXIMUM - len(opening) - 1
    text = "".join(opening + tokens.split(f" You said: {words}")[:room])
    return tokens.split(text if text.endswith((".", "!", "?")) else f"{text}.")


def _stopped(answer: Answer, sampling: Sampling) -> Answer:
    """The answer cut at the stop string that is complete first."""
    text = answer.content
    skipped = sum(map(len, answer.pieces[answer.thoughts : sampling.min_tokens]))
    found = [(at + len(stop), at, stop) for stop in sampling.stop if (at := text.find(stop, skipped)) >= 0]
    if not found:
        return answer
    end, start, stop = min(found)
    kept = end if sampling.include_stop else start
    pieces, position = answer.pieces[: answer.thoughts], 0
    for piece in answer.pieces[answer.thoughts :]:
        if position >= end:
            break
        pieces.append(piece[: max(0, kept - position)])
        position += len(piece)
    return Answer(pieces, "stop", stop, answer.thoughts)
