"""`viewmill embed`: the features of any images as a Parquet file.

Shape suffixes: B = rows of a batch, F = features.
"""

import json
from typing import Any

import torch

from ..console import counting, say
from ..errors import refusing
from ..evaluation.features import BATCH, Features, Shown, batches
from ..files.opening import check_output, replacing
from ..pipeline.beton.manifest import classes_of, read_columns
from ..pipeline.datasets import open_images
from ..pipeline.sources.arrow import pyarrow
from ..pipeline.views.recipe import weak
from ..settings import Embed
from ..training.resume import load_encoders

OWN = ("row", "label", "class", "feature")
"""Columns of our own; one of the images' table that is called so gets `source_` before its name."""


def embed(config: Embed) -> int:
    """Write one record an image that could be decoded, in the order of its rows; returns the exit code."""
    target = config.target
    with refusing():
        check_output(target, overwrite=config.overwrite, endings=(".parquet",))
        library = pyarrow()
        encoders = load_encoders(config.run, ema=config.ema)
        beton = open_images(config.source)
        names = dict(enumerate(classes_of(beton)))
        tables = {name: texts for name, texts in read_columns(beton).items() if name != "row"}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shown = Shown(encoders.trained.to(device), weak(encoders.colours.size, encoders.colours))
    facts = {
        "run": str(config.run),
        "method": encoders.settings["method"],
        "step": encoders.step,
        "weights": "ema" if config.ema else "model",
        "size": encoders.settings["size"],
        "source": str(beton.path),
        "data_fingerprint": beton.fingerprint,
    }
    written = 0
    with counting(f"embedding {config.source}") as progress, refusing(), replacing(target) as partial:
        writer, width = None, 0
        try:
            for number, part in enumerate(batches(shown, beton, device=device), start=1):
                table = _table(library, part, names, tables, half=config.half)
                if writer is None:
                    schema = table.schema.with_metadata({"viewmill": json.dumps(facts)})
                    writer = library.parquet.ParquetWriter(partial, schema)
                writer.write_table(table.cast(writer.schema))
                written, width = written + len(part.row_N), part.feature_NF.shape[1]
                progress(min(number * BATCH, len(beton)), len(beton))
        finally:
            if writer is not None:
                writer.close()
    lost = len(beton) - written
    say(f"{target}: {written:,} images x {width} features, of step {encoders.step}")
    if lost:
        say(f"{lost} images could not be decoded and are left out: viewmill inspect {beton.path} --deep names them")
    return 0


def _table(library: Any, part: Features, names: dict[int, str], tables: dict[str, list[str]], *, half: bool) -> Any:
    """A record batch: our own columns, with the classes by `names`, then those of the images' table."""
    feature_BF = part.feature_NF.half() if half else part.feature_NF
    flat = library.array(feature_BF.numpy().reshape(-1))
    rows, labels = part.row_N.tolist(), part.label_N.tolist()
    columns = {
        "row": library.array(rows, library.int64()),
        "label": library.array([label if label >= 0 else None for label in labels], library.int64()),
        "class": library.array([names.get(label) for label in labels], library.string()),
        "feature": library.FixedSizeListArray.from_arrays(flat, feature_BF.shape[1]),
    }
    for name, texts in tables.items():
        shown = [texts[row].encode(errors="surrogateescape").decode(errors="replace") for row in rows]
        columns[f"source_{name}" if name in OWN else name] = library.array(shown, library.string())
    return library.table(columns)
