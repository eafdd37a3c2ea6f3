"""HTML from text: whatever is not markup already is escaped on its way into a tag."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from ..console import printable

MARK = 'name="generator" content="viewmill report"'  # in every page: one that has it is made anew unasked
VOID = ("img", "meta", "rect", "path", "line", "circle", "br")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *parts: Any, **attributes: Any) -> Html:
    """An element with `parts` in it; `class_` and `data_x` are the attributes class and data-x, None and False none."""
    given = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    if name in VOID and not parts:
        return Html(f"<{name}{given}/>")
    return Html(f"<{name}{given}>{joined(parts)}</{name}>")


def joined(parts: Iterable[Any]) -> Html:
    """Parts behind one another, those escaped that are no markup; None is nothing."""
    return Html("".join(part if isinstance(part, Html) else _escaped(part) for part in parts if part is not None))


def _escaped(part: Any) -> str:
    """No markup, and no character that turns the direction of writing or is unseen."""
    return html.escape(printable(str(part)))


def _attribute(key: str, value: Any) -> str:
    key = key.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{_escaped(value)}"'


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]], *, numbers: int = 1, caption: Any = None) -> Html:
    """A table that scrolls by itself where it is wide; columns from `numbers` on stand to the right.

    The first cell of a row is its heading.
    """

    def cell(kind: str, at: int, part: Any, **scope: str) -> Html:
        return tag(kind, part, class_="n" if at >= numbers else None, **scope)

    top = (
        [tag("thead", tag("tr", *(cell("th", at, part, scope="col") for at, part in enumerate(head))))] if any(head) else []
    )
    body = [
        tag("tr", *(cell("td" if at else "th", at, part, **({} if at else {"scope": "row"})) for at, part in enumerate(row)))
        for row in rows
    ]
    named = [tag("caption", caption)] if caption else []
    return tag("div", tag("table", *named, *top, tag("tbody", *body)), class_="scroll", tabindex="0")


def section(name: str, title: str, note: Any, *parts: Any) -> Html:
    """A section with a heading, and a line on what it shows and how to read it."""
    return tag("section", tag("h2", title), tag("p", note, class_="note"), *parts, id=name)


def folded(title: str, *parts: Any) -> Html:
    """What opens when it is asked for."""
    return tag("details", tag("summary", title), *parts)


def short(value: float | None) -> str:
    """A number in about four digits; a dash for None."""
    if value is None:
        return "-"
    size = abs(value)
    if value == int(value) and size < 1e7:
        return f"{int(value):,}"
    if size >= 1e7 or size < 1e-4:
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def share(value: float | None) -> str:
    """A share of 1 in per cent."""
    return "-" if value is None else f"{value:.1%}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"
