"""How far a download is, for people and programs. Pure."""

from typing import Any, NamedTuple

from engines.downloads.folder import Progress


class Fetching(NamedTuple):
    """How far it is, for people and programs. `total` 0, `bytes_per_s` 0, `eta_s` None: not known (yet)."""

    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_s: float = 0.0
    eta_s: float | None = None
    trouble: str = ""

    @property
    def percent(self) -> int | None:
        return 100 * self.bytes_done // self.bytes_total if self.bytes_total else None

    @property
    def told(self) -> str:
        """Such as `downloading 45%: 6.3 of 14.0 GB, 120.0 MB/s, 1 min left`, and afterwards `14.0 GB, 120.0 MB/s`."""
        if not self.bytes_total:
            return self.trouble or "asking the hub for its files"
        if self.bytes_done == self.bytes_total and not self.trouble:
            return ", ".join([size(self.bytes_total), *([f"{size(self.bytes_per_s)}/s"] if self.bytes_per_s else [])])
        said = [f"downloading {self.percent}%: {_of(self.bytes_done, self.bytes_total)}"]
        if self.trouble:
            said.append(self.trouble)
        elif self.bytes_per_s:
            said.append(f"{size(self.bytes_per_s)}/s")
            said += [] if self.eta_s is None else [f"{_time(self.eta_s)} left"]
        return ", ".join(said)


def fetching(progress: Progress, alive: bool) -> Fetching:
    """`alive`: the process that told it still lives, so its speed counts."""
    left, speed = progress.total - progress.done, progress.bytes_per_s if alive else 0.0
    eta_s = round(left / speed, 1) if progress.total and speed > 0 else None
    return Fetching(progress.done, progress.total, speed, eta_s, progress.trouble)


LEFT = {"left": True}
"""What `Engine.download` keeps where the portal has looked, and leaves it to the engine."""


def of(kept: dict[str, Any] | None) -> Fetching | None:
    """By what `Engine.download` keeps. None: the portal has not downloaded for it."""
    if not kept or kept == LEFT:
        return None
    return Fetching(**{name: kept[name] for name in Fetching._fields if name in kept})


def _of(done: float, total: float) -> str:
    """Both in the unit of the total."""
    unit, factor = _unit(total)
    return f"{done / factor:.1f} of {total / factor:.1f} {unit}"


def size(count: float) -> str:
    unit, factor = _unit(count)
    return f"{count / factor:.1f} {unit}"


def _unit(count: float) -> tuple[str, float]:
    return next(
        ((unit, factor) for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if count >= factor), ("B", 1.0)
    )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
