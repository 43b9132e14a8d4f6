"""A drawing as SVG text: plain colours on a white card, so that it reads the same on light and dark pages."""

from xml.sax.saxutils import escape, quoteattr

INK, MUTED, GRID, CARD = "#1c2733", "#66727f", "#e3e7eb", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


class Drawing:
    """Lengths are in pixels, y goes down. `title` is read out by screen readers."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height = width, height
        self._title = title
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, colour: str, radius: float = 2) -> None:
        self._add("rect", x=x, y=y, width=max(width, 0), height=height, rx=radius, fill=colour)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = GRID, width: float = 1) -> None:
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width)

    def dot(self, x: float, y: float, radius: float, colour: str, hollow: bool = False) -> None:
        self._add("circle", cx=x, cy=y, r=radius, fill=CARD if hollow else colour, stroke=colour, stroke_width=2)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        colour: str = INK,
        size: int = 13,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        weight = "600" if bold else "400"
        attributes = _attributes(x=x, y=y, fill=colour, font_size=size, text_anchor=anchor, font_weight=weight)
        self._parts.append(f"<text {attributes}>{escape(text)}</text>")

    def _add(self, element: str, **attributes: object) -> None:
        self._parts.append(f"<{element} {_attributes(**attributes)}/>")

    def __str__(self) -> str:
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        card = _attributes(
            x=0.5, y=0.5, width=self.width - 1, height=self.height - 1, rx=8, fill=CARD, stroke=GRID, stroke_width=1
        )
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}">'
        return "\n".join([head, f"<title>{escape(self._title)}</title>", f"<rect {card}/>", *self._parts, "</svg>", ""])


def _attributes(**attributes: object) -> str:
    texts = {name: f"{value:.1f}" if isinstance(value, float) else str(value) for name, value in attributes.items()}
    return " ".join(f"{name.replace('_', '-')}={quoteattr(value)}" for name, value in texts.items())
