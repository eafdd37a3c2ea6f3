"""The page in a real browser: no script error, charts drawn, nothing wider than a phone, light and dark.

What is measured is written into the page by a script that is added here, and read from the DOM that Chromium prints.
"""

import json
import re
import shutil
import subprocess
import time
from html import unescape

import pytest
from faults import TINY, figures
from faults import run as trained

from viewmill.methods.table import METHODS
from viewmill.report import read
from viewmill.report.page import page
from viewmill.training.log import Log

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
NASTY = "<script>throw 1</script> & \"ünï\" '猫' " + "long" * 30
COLLECT = """<script>window.faults = [];
addEventListener("error", (event) => faults.push(event.message), true);
addEventListener("securitypolicyviolation", (event) => faults.push(`fetched ${event.blockedURI}`));
</script>"""
MEASURE = """<script>addEventListener("load", () => {
  const all = (query) => [...document.querySelectorAll(query)], root = document.documentElement;
  const found = {};
  const click = (query) => all(query).forEach((button) => button.click());
  all("details").forEach((part) => { part.open = true; });
  found.width = root.clientWidth;
  found.scroll = root.scrollWidth;
  found.wide = all("body *").filter((part) => !part.closest(".scroll") && !part.closest("svg")
    && part.getBoundingClientRect().right > root.clientWidth + 1).map((part) => part.outerHTML.slice(0, 120));
  found.pictures = all("svg").map((picture) => picture.getBoundingClientRect()).map((box) => [box.width, box.height]);
  found.lines = all("svg .line").filter((line) => line.getTotalLength() > 0).length;
  found.broken = all("img").filter((image) => !image.complete || image.naturalWidth === 0).length;
  found.images = all("img").length;
  const boxes = (axes) => [...axes.querySelectorAll(".along")].map((text) => text.getBoundingClientRect());
  const labels = all("svg .axes").map(boxes);
  found.touching = labels.filter((texts) => texts.some((one, at) => texts.some((other, place) => place > at
    && one.left < other.right && other.left < one.right))).length;
  found.least = Math.min(...all("svg text").map((text) => text.getBoundingClientRect().height));
  const colours = () => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color];
  found.colours = colours();
  const strokes = all("svg .line").slice(0, 1).map((line) => getComputedStyle(line).stroke);
  found.stroke = strokes[0] ?? "";
  click(".theme");
  found.themes = [[root.dataset.theme, ...colours()]];
  click(".theme");
  found.themes.push([root.dataset.theme, ...colours()]);
  click(".theme");
  const chart = document.querySelector("svg[data-x]"), box = chart.getBoundingClientRect();
  const at = { clientX: box.left + box.width * .6, clientY: box.top + 40, bubbles: true };
  chart.dispatchEvent(new PointerEvent("pointermove", at));
  const tip = document.querySelector(".tip");
  found.tip = tip.hidden ? "" : tip.textContent;
  found.tipRight = tip.getBoundingClientRect().right;
  chart.dispatchEvent(new PointerEvent("pointerleave", at));
  found.tipLeft = tip.hidden;
  const key = document.querySelector(".toggle");
  if (key) {
    const shown = () => all("svg .line, svg .dots").filter((mark) => getComputedStyle(mark).display !== "none").length;
    const before = shown();
    key.click();
    found.switched = [before, shown()];
    key.click();
    found.switched.push(shown());
  }
  const dots = document.querySelector(".dots");
  if (dots) {
    dots.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    found.under = document.querySelector(".under").textContent;
  }
  click(".copy");
  setTimeout(() => parent.postMessage(JSON.stringify({ ...found, faults: window.faults }), "*"));
});</script>"""
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><pre id="measured"></pre><script>
addEventListener("message", (event) => { document.getElementById("measured").textContent = event.data; });
</script><iframe src="PAGE" style="width: WIDTHpx; height: 900px; border: 0"></iframe>"""


def look(text, folder, *, width, dark):
    """What the page is like in a window of `width` pixels: in a frame, since Chromium's own windows have a least width."""
    text = text.replace("<head>", f"<head>{COLLECT}", 1).replace("</body>", f"{MEASURE}</body>", 1)
    path = folder / f"page-{width}-{dark}.html"
    path.write_text(text, encoding="utf-8")
    frame = folder / f"frame-{width}-{dark}.html"
    frame.write_text(FRAME.replace("PAGE", path.name).replace("WIDTH", str(width)), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=5000",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command += ["--window-size=1400,1000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=100, check=True)
    dom = done.stdout.decode()
    found = json.loads(unescape(re.search(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL).group(1)))
    assert found["width"] == width
    return found


def bright(colour):
    """0 to 255: how bright rgb(...) is."""
    red, green, blue = map(float, re.findall(r"[\d.]+", colour)[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue


def written(*folders, images=0):
    recipes = {name: method.recipe for name, method in METHODS.items()}
    return page(read.read_runs(folders), images=images, data=None, recipes=recipes, now=time.time())


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The page of a training of ten steps whose negatives lie in a ring."""
    folder = tmp_path_factory.mktemp("real")
    done = trained("train", "simclr-ring", "--data", figures(folder, 64), *TINY, "--steps", "10", out=folder / "run")
    assert done.code == 0, done.said()
    confusion = {"confusion": [[5, 1], [2, 4]], "classes": ["disc", "star"]}
    line = {"task": "shapes", "protocol": "kNN k=20", "encoder": "run", "top1": 0.7, "interval": [0.6, 0.8], **confusion}
    (folder / "run" / "evaluation.jsonl").write_text(json.dumps(line) + "\n")
    return written(folder / "run", images=64)


def made(folder, place):
    """A run of strange words and a log of 500 readings, one of them not finite."""
    folder.mkdir(parents=True)
    config = {"method": NASTY, "encoder": NASTY, "steps": 5000, "size": 16, "batch": 16, "seed": place, NASTY: NASTY * 3}
    (folder / "config.json").write_text(json.dumps(config))
    with Log(folder / "log.jsonl", resumed_step=0) as log:
        log.started(step=0, config=config, data=f"/gone/{NASTY}", processes=1, device="cpu")
        for step in range(10, 5001, 10):
            values = {"loss": None if step == 2000 else 5 - place / 10 - step / 2000, "bound": step / 2000, "ceiling": 4.8}
            values |= {"grad_norm": 10.0 ** (step % 70 / 10), "images_per_s": 123_456.0, "probe": 0.1, NASTY: -1e-7 * step}
            log.write("step", step=step, steps=5000, epoch=step / 100, negative_histogram=[1 / 40] * 40, **values)
        log.write("alarm", step=5000, kind=NASTY, text=NASTY)
    line = {
        "task": NASTY,
        "protocol": NASTY,
        "encoder": "run",
        "top1": 0.5,
        "interval": [0.4, 0.6],
        "classes": [NASTY, NASTY],
    }
    (folder / "evaluation.jsonl").write_text(json.dumps(line | {"confusion": [[1, 2], [3, 4]]}) + "\n")
    return folder


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twelve")
    return written(*(made(folder / f"{place} {NASTY[:60].replace('/', '_')}", place) for place in range(12)))


def check(found):
    assert found["faults"] == []
    assert found["wide"] == []
    assert found["scroll"] <= found["width"]
    assert found["broken"] == 0
    assert all(width > 250 and height > 30 for width, height in found["pictures"])
    assert found["touching"] == 0
    assert found["least"] >= 9  # pixels: what can still be read
    assert [theme[0] for theme in found["themes"]] == ["light", "dark"]
    (_, light, ink), (_, dark, chalk) = found["themes"]
    assert bright(light) - bright(ink) > 180
    assert bright(chalk) - bright(dark) > 180
    assert found["tip"].startswith("step ")
    assert found["tipRight"] <= found["width"]
    assert found["tipLeft"]


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_a_real_run_on_a_phone_and_in_the_dark_on_a_wide_screen(real, tmp_path, width, dark):
    found = look(real, tmp_path, width=width, dark=dark)
    check(found)
    assert len(found["pictures"]) > 20
    assert found["lines"] > 15
    assert found["images"] > 50
    assert found["under"] == "crescent"
    assert found["switched"][0] == found["switched"][2] == found["switched"][1] + 1
    ground, ink = map(bright, found["colours"])
    assert (ground < ink) is dark
    assert abs(bright(found["stroke"]) - ground) > 60  # a line stands out from its ground


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_twelve_runs_of_strange_names(twelve, tmp_path, width, dark):
    found = look(twelve, tmp_path, width=width, dark=dark)
    check(found)
    assert found["lines"] > 12 * 6
    assert found["switched"][0] - found["switched"][1] >= 6  # of one run in every chart
    assert found["switched"][0] == found["switched"][2]


def test_the_page_may_fetch_nothing(tmp_path):
    text = written(made(tmp_path / "run", 0)).replace("<main>", '<main><img src="https://example.org/a.png">', 1)
    found = look(text, tmp_path, width=1280, dark=False)
    assert "fetched https://example.org/a.png" in found["faults"]
