import importlib.util
import multiprocessing

import pytest

from viewmill.benchmarks import peers
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.conversion.encoding import Encoding

LIBRARY = {"dali": "nvidia.dali", "decode dali": "nvidia.dali", "ffcv": "ffcv", "decode": "ffcv", "kornia": "kornia"}
# what takes over ten seconds: workers that import torch, FFCV's compiler
SLOW = {"torchvision", "torchvision pillow", "kornia", "ffcv"}


def installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(LIBRARY.get(name, "torchvision")) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def data(photo_beton, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    assert peers.extract(photo_beton, folder) == len(photo_beton)
    return peers.Data(photo_beton.path, folder, size=32, batch=10, threads=2)  # 10, 10 and 4


def test_the_files_are_the_rows_to_the_byte(photo_beton, data):
    paths = sorted(data.folder.rglob("*.*"))
    assert [path.relative_to(data.folder).as_posix() for path in paths] == [f"0/{row:08d}.jpg" for row in range(24)]
    with open(photo_beton.path, "rb") as file:
        assert [path.read_bytes() for path in paths] == [photo_beton.read(file.fileno(), row) for row in range(24)]


def test_a_limit_leaves_the_later_rows_out(photo_beton, tmp_path):
    assert peers.extract(photo_beton, tmp_path, limit=5) == len(list(tmp_path.rglob("*.jpg"))) == 5


def test_raw_rows_are_refused(photos, tmp_path):
    convert([photos], tmp_path / "raw.beton", encoding=Encoding(mode="raw"), workers=0)
    with pytest.raises(ValueError, match="raw pixels"):
        peers.extract(open_beton(tmp_path / "raw.beton"), tmp_path / "files")


def passes(name: str, data: peers.Data) -> None:
    if not installed(name):
        with pytest.raises(ImportError, match="pip install"):
            peers.PEERS[name](data)
        return
    contender = peers.PEERS[name](data)
    assert [contender.run(), contender.run()] == [24, 24]
    contender.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("name", sorted(set(peers.PEERS) - SLOW))
def test_a_peer_mills_every_image_each_pass(name, data):
    passes(name, data)


@pytest.mark.chaos
@pytest.mark.filterwarnings("ignore:Using a pytorch transform:ResourceWarning")  # FFCV's, at its want of a blur
@pytest.mark.parametrize("name", sorted(SLOW))
def test_a_slow_peer_mills_every_image_each_pass(name, data):
    passes(name, data)


def test_a_missing_library_is_named(data, monkeypatch):
    monkeypatch.setattr(peers.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError("no such module")))
    for name in ("dali", "decode dali", "ffcv", "kornia"):
        with pytest.raises(ImportError, match=r"this peer needs .* pip install"):
            peers.PEERS[name](data)
