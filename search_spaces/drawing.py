"""Drawings of cells as SVG text: nodes in a row, edges as arcs with their operation."""

from __future__ import annotations

from html import escape

COLOURS = ("#2f6fb2", "#d1662b", "#3d8f5f", "#9355a8", "#b0892c", "#b2394b", "#4a8f9c", "#6b6b6b")
_SPACING, _RADIUS = 150, 22


def draw_cell(nodes: list[str], edges: list[tuple[int, int, str]]) -> str:
    """Returns a cell as SVG text.

    Args:
        nodes: Names of the nodes, in order.
        edges: From, to and operation of each edge; operations get a colour each.
    """
    operations = sorted({operation for _, _, operation in edges} - {"skip"})
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(operations)} | {"skip": "#8a8f98"}
    reach = max((j - i for i, j, _ in edges), default=1)
    height = 60 * reach + 70
    base = height - 40
    parts = []
    for i, j, operation in edges:
        x1, x2 = _centre(i), _centre(j)
        colour = colours[operation]
        dash = ' stroke-dasharray="6 4"' if operation == "skip" else ""
        if j - i == 1:
            start, end, top = x1 + _RADIUS, x2 - _RADIUS - 6, base
            path, label_y = f"M{start} {base} L{end} {base}", base - 8
        else:
            top = base - 78 * (j - i) + 30
            path = f"M{x1 + 8} {base - _RADIUS} C{x1 + 40} {top} {x2 - 40} {top} {x2 - 8} {base - _RADIUS - 6}"
            label_y = round(0.25 * (base - _RADIUS) + 0.75 * top) - 6
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.2"{dash} marker-end="url(#tip)"/>')
        parts.append(
            f'<text x="{(x1 + x2) / 2:g}" y="{label_y}" text-anchor="middle" fill="{colour}" '
            f'paint-order="stroke" stroke="#ffffff" stroke-width="4">{escape(operation)}</text>'
        )
    for index, name in enumerate(nodes):
        parts.append(
            f'<circle cx="{_centre(index)}" cy="{base}" r="{_RADIUS}" fill="#ffffff" stroke="#333333" stroke-width="1.6"/>'
            f'<text x="{_centre(index)}" y="{base + 4}" text-anchor="middle" fill="#333333" font-size="11">'
            f"{escape(name)}</text>"
        )
    if not edges:
        parts.append(f'<text x="{_centre(0)}" y="20" fill="#b2394b">no edge: the output is constant</text>')
    return _svg(_SPACING * (len(nodes) - 1) + 80, height, parts)


def draw_chain(boxes: list[str]) -> str:
    """Returns a chain of labelled boxes as SVG text."""
    parts = []
    for index, label in enumerate(boxes):
        x = 20 + index * 170
        parts.append(
            f'<rect x="{x}" y="20" width="140" height="44" rx="8" fill="#ffffff" stroke="#333333" stroke-width="1.6"/>'
            f'<text x="{x + 70}" y="46" text-anchor="middle" fill="#333333">{escape(label)}</text>'
        )
        if index:
            parts.append(f'<path d="M{x - 30} 42 L{x - 6} 42" stroke="#8a8f98" stroke-width="2.2" marker-end="url(#tip)"/>')
    return _svg(20 + 170 * len(boxes), 84, parts)


def _centre(index: int) -> int:
    return 40 + index * _SPACING


def _svg(width: int, height: int, parts: list[str]) -> str:
    tip = (
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="4" refY="5" markerWidth="6" markerHeight="6" '
        'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="#55595f"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="13" role="img">{tip}{"".join(parts)}</svg>'
    )
