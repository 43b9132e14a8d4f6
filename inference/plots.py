"""Numbers as places in a drawing of `WIDTH` by `HEIGHT`. Pure: templates draw, and style sheets give the colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import ceil, log10

WIDTH, HEIGHT = 1000, 200
STEPS = 60
_GAP = 0.2  # of a bar's place


@dataclass(frozen=True, slots=True)
class Bar:
    """One day: generated tokens, and prompt tokens on top of them. Numbers of the drawing, y downwards. A template that
    shows a year reads few names of each."""

    day: date
    prompt: int
    generated: int
    x: float
    width: float
    prompt_y: float
    prompt_height: float
    generated_y: float
    generated_height: float

    @property
    def told(self) -> str:
        """ "": there was nothing."""
        if not (self.prompt or self.generated):
            return ""
        return f"{self.day:%Y-%m-%d}: {self.prompt} prompt, {self.generated} generated"

    @property
    def prompt_path(self) -> str:
        return f"M{self.x} {self.prompt_y}h{self.width}v{self.prompt_height}h-{self.width}z"

    @property
    def generated_path(self) -> str:
        return f"M{self.x} {self.generated_y}h{self.width}v{self.generated_height}h-{self.width}z"


@dataclass(frozen=True, slots=True)
class Plot:
    bars: tuple[Bar, ...]
    top: int
    """What the drawing's height stands for: a round number, not below the largest sum."""

    @property
    def middle(self) -> int:
        return self.top // 2


def by_day(rows: Sequence[Mapping[str, int | str]], first: date, days: int) -> Plot:
    """`rows`: of `summary` by day. Days without requests have a bar of no height."""
    sums = {row["group"]: row for row in rows}
    found = []
    for number in range(days):
        day = first + timedelta(days=number)
        row = sums.get(f"{day:%Y-%m-%d}", {})
        found.append((day, int(row.get("prompt_tokens", 0)), int(row.get("generated_tokens", 0))))
    top = rounded_up(max((prompt + generated for _, prompt, generated in found), default=0))
    place = WIDTH / max(days, 1)
    return Plot(tuple(_bar(number, place, top, *one) for number, one in enumerate(found)), top)


def _bar(number: int, place: float, top: int, day: date, prompt: int, generated: int) -> Bar:
    generated_height, prompt_height = (round(HEIGHT * tokens / top, 2) for tokens in (generated, prompt))
    generated_y = round(HEIGHT - generated_height, 2)
    return Bar(
        day=day,
        prompt=prompt,
        generated=generated,
        x=round((number + _GAP / 2) * place, 2),
        width=round((1 - _GAP) * place, 2),
        prompt_y=round(generated_y - prompt_height, 2),
        prompt_height=prompt_height,
        generated_y=generated_y,
        generated_height=generated_height,
    )


def over_time(values: Sequence[int]) -> str:
    """An SVG path within 100 by 20: a step for each day, or for so many that there are at most STEPS. The largest is
    as high as the drawing. "" of nothing."""
    days = -(-len(values) // STEPS) or 1
    ends = range(len(values) % days or days, len(values) + 1, days)
    sums = [sum(values[max(0, end - days) : end]) for end in ends]
    top = max(sums, default=0)
    if not top:
        return ""
    width = 100 / len(sums)
    steps = (f"V{20 - 20 * total / top:.1f}h{width:.2f}" for total in sums)
    return f"M0 20{''.join(steps)}V20Z"


def rounded_up(number: int) -> int:
    """The least of 10, 20, 50, 100, 200, 500, 1000 … that is not below it."""
    if number <= 10:
        return 10
    power = 10 ** int(log10(number))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if ceil(number) <= factor * power)
