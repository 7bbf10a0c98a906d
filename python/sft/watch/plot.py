"""The loss of a run as SVG, without a library: login nodes have none."""

import math
from html import escape

POINTS = 400  # of a curve: more are not seen
# Of the SVG, in its own units. It is drawn at the width of a phone, where the text has the size that it has here.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 230, 56, 24, 10, 40
FALL = 4  # a highest loss of so many times the lowest asks for a logarithmic axis


def curve(losses: dict[int, float]) -> list[tuple[float, float]]:
    """At most POINTS points of a curve, each the mean of as many steps; what is not a number is left out."""
    points = [(step, loss) for step, loss in sorted(losses.items()) if math.isfinite(loss)]
    size = max(1, math.ceil(len(points) / POINTS))
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def ticks(low: float, high: float, most: int = 5, least: float = 0.0) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten, from low to high; least: between two of them."""
    if high <= low:
        return [low]
    raw = max((high - low) / most, least)
    power = 10.0 ** math.floor(math.log10(raw))
    for size in (1, 2, 5, 10):
        step = size * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if step >= least and last - first < most:
            break
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def powers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from low to high, or of many only the powers."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(f"{size}e{n}") for n in exponents for size in (1, 2, 5)]
    found = [value for value in found if low <= value <= high]
    return found if len(found) <= 7 else [value for value in found if f"{value:e}".startswith("1.0")]


def loss_plot(name: str, losses: dict[int, float]) -> str:
    """The loss over the steps; nothing with fewer than two points."""
    points = curve(losses)
    if len(points) < 2:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    logarithmic = low > 0 and high / low >= FALL
    first, last = points[0][0], points[-1][0]

    def height(y: float) -> float:
        """From 0 for the lowest loss to 1 for the highest."""
        if high == low:
            return 0.0
        return math.log(y / low) / math.log(high / low) if logarithmic else (y - low) / (high - low)

    def place(x: float, y: float) -> tuple[float, float]:
        wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + (x - first) / (last - first) * wide, TOP + (1 - height(y)) * tall

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(name)}: loss over the steps</title>']
    for value in powers(low, high) if logarithmic else ticks(low, high):
        y = place(first, value)[1]
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in ticks(first, last, least=1):
        x = place(value, low)[0]
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:,.0f}</text>')
    title = "training loss, logarithmic" if logarithmic else "training loss"
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    across = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text class="axis" x="{across}" y="{HEIGHT - 6}" text-anchor="middle">optimizer step</text>')
    turned = f'transform="rotate(-90 14 {middle})" x="14" y="{middle}" text-anchor="middle"'
    out.append(f'<text class="axis" {turned}>{title}</text>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    out.append(f'<polyline fill="none" stroke="var(--line)" stroke-width="1.5" points="{line}"/></svg>')
    return "\n".join(out)
