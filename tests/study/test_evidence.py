"""docs/evidence.md says what the committed results say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
RESULTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "studies" / "results").glob("*.md")}
NUMBER = r"[+\N{MINUS SIGN}]?\d+\.\d\d"
DIFFERENCE = re.compile(rf"{NUMBER} points, {NUMBER} to {NUMBER}, n = \d+")


@pytest.mark.parametrize("quoted", sorted(set(DIFFERENCE.findall(PAGE))))
def test_a_difference_that_is_quoted_is_one_of_the_results(quoted):
    assert any(quoted in text for text in RESULTS.values())


def test_differences_are_quoted():
    assert len(DIFFERENCE.findall(PAGE)) >= 8


@pytest.mark.parametrize("study", sorted(path.stem for path in (ROOT / "studies").glob("*.toml")))
def test_each_study_that_has_results_is_told_of(study):
    assert (f"results/{study}.md" in PAGE) == (f"{study}.md" in RESULTS)


def test_each_claim_has_a_verdict():
    rows = [row.split("|") for row in PAGE.splitlines() if re.match(r"\| [VS]\d", row)]
    verdicts = {row[3].strip().strip("*") for row in rows}
    assert len(rows) >= 8
    assert verdicts <= {"supported", "not seen at this scale", "contradicted", "not measured"}
