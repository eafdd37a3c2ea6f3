"""The worked example of docs/adding-a-method.md, run as a person would run it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from viewmill.pipeline import factors
from viewmill.pipeline.conversion.convert import convert

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--width", "4", "--hidden", "16", "--embedding", "8", "--size", "16", "--batch", "16", "--engine", "ffcv")


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """The page's file, as a file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-method.md").read_text(), flags=re.S)
    folder = tmp_path_factory.mktemp("example")
    (folder / "align_uniform.py").write_text(blocks[-1])
    factors.write_folder(folder / "images", 64, seed=0)
    convert([folder / "images"], folder / "factors.beton")
    return folder


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=program.parent)


def test_it_has_under_sixty_lines(example):
    assert len((example / "align_uniform.py").read_text().splitlines()) < 60


def test_it_trains_and_its_encoder_is_evaluated_without_it(example):
    data, out = example / "factors.beton", example / "run"
    options = ("--set", "terms.0.t=3", "--log-every", 1, "--steps", 4)
    done = run(example / "align_uniform.py", "train", "align-uniform", "--data", data, "--out", out, *TINY, *options)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    assert steps[-1]["step"] == 4
    assert {"uniformity_loss", "bound", "effective_rank"} <= set(steps[-1])
    assert json.loads((out / "config.json").read_text())["objective"]["terms.0.t"] == 3
    answer = run(ROOT / "run.py", "evaluate", out, "--train", data, "--test", data, "--json")
    assert answer.returncode == 0, answer.stderr


def test_its_loss_is_the_papers(example):
    source = (example / "align_uniform.py").read_text()
    probe = """
from types import SimpleNamespace
import torch
torch.manual_seed(0)
embedding = torch.nn.functional.normalize(torch.randn(2, 6, 4, dtype=torch.float64), dim=2)
images = SimpleNamespace(valid_B=torch.tensor([True, True, False, True, True, True]))
loss, _ = align_uniform(AlignUniform(), None, SimpleNamespace(embedding_VBD=embedding), images, None)
print(loss.item())
"""
    program = example / "probe.py"
    program.write_text(source.replace('if __name__ == "__main__":\n    raise SystemExit(main())\n', probe))
    done = run(program)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    one, two = F.normalize(torch.randn(2, 6, 4, dtype=torch.float64), dim=2)[:, [0, 1, 3, 4, 5]]
    apart = [torch.pdist(view).square().mul(-2).exp().mean().log() for view in (one, two)]
    expected = (one - two).square().sum(dim=1).mean() + sum(apart) / 2
    assert float(done.stdout) == pytest.approx(expected.item(), abs=1e-12)
