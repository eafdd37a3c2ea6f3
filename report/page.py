"""The page: its sections one after another, with style and script inside, so that it needs no network and no other file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files.opening import read_text
from . import about, gallery, learning, results
from .charts import colour
from .markup import Html, tag
from .read import Run
from .summary import moment, summary

HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""A browser that is told so fetches nothing, whatever stands in a run's texts."""
TITLES = {
    "summary": "Summary",
    "results": "Results",
    "curves": "Learning",
    "negatives": "Bound",
    "embeddings": "Embeddings",
    "terms": "Terms",
    "views": "Views",
    "neighbours": "Neighbours",
    "map": "Map",
    "speed": "Speed",
    "warnings": "Warnings",
    "settings": "Settings",
    "origin": "Command",
}


def page(runs: Sequence[Run], *, images: int, data: Path | None, recipes: Mapping[str, str], now: float) -> str:
    """The whole page. `images` are taken for neighbours and map, 0 for no pictures; `data` is where they lie.

    Raises ValueError where `data` holds the images of none of the runs.
    """
    pictures = _pictures(runs, images, data, recipes) if images else {}
    sections = {
        "summary": summary(runs, now=now),
        "results": results.transfer(runs),
        "curves": learning.learning(runs),
        "negatives": learning.negatives(runs),
        "embeddings": learning.health(runs),
        "terms": learning.others(runs),
        **pictures,
        "speed": learning.speed(runs),
        "warnings": about.warnings(runs, now=now),
        "settings": about.settings(runs),
        "origin": about.origin(runs),
    }
    shown = {name: part for name, part in sections.items() if part is not None}
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    links = [tag("a", TITLES[name], href=f"#{name}") for name in shown]
    head = tag(
        "header",
        tag("p", "viewmill report", class_="kind"),
        tag("button", "Theme: system", type="button", class_="theme", aria_live="polite"),
        tag("h1", title),
        _legend(runs),
        tag("nav", *links, aria_label="Sections"),
    )
    foot = tag("footer", f"Written {moment(now)}. Curves hold the lowest and the highest of neighbouring readings.")
    about_page = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content="viewmill report"),
        tag("title", f"{title} · viewmill report"),
        tag("style", Html(read_text(HERE / "page.css"))),
    ]
    script = tag("script", Html(read_text(HERE / "page.js")))
    body = tag(
        "body", head, tag("main", *shown.values()), foot, tag("div", class_="tip", role="status", hidden=True), script
    )
    return "<!doctype html>\n" + tag("html", tag("head", *about_page), body, lang="en") + "\n"


def _pictures(runs: Sequence[Run], images: int, data: Path | None, recipes: Mapping[str, str]) -> dict[str, Html]:
    if data is not None and not data.exists():
        raise ValueError(f"{data} does not exist: name the images that the run was trained on with --data")
    shown = [gallery.gather(run, data, images=images) for run in runs]
    if data is not None and all(each.unfit for each in shown):
        raise ValueError(shown[0].unfit)
    found = {"views": gallery.views(shown, recipes)}
    if any(each.sample is not None for each in shown):
        found |= {"neighbours": gallery.neighbours(shown), "map": gallery.atlas(shown)}
    elif all(each.beton is not None for each in shown):
        found |= {"neighbours": gallery.neighbours(shown)}
    return found


def _legend(runs: Sequence[Run]) -> Html | None:
    if len(runs) == 1:
        return None
    keys = [
        tag(
            "button",
            tag("i", class_=f"swatch {colour(place)}"),
            run.name,
            type="button",
            aria_pressed="true",
            data_run=place,
            class_="toggle",
        )
        for place, run in enumerate(runs)
    ]
    return tag("div", *keys, class_="legend runs", aria_label="Runs")
