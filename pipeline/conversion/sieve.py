"""Outcomes -> samples, in row order; beside them stands what each row was, what was lost, and what there is to remark."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TextIO

from ...files.opening import make_text, partial
from ..beton.manifest import sidecars
from ..beton.reader import Sample
from ..sources.candidate import Candidate, Rejected, Remark
from .chunks import Outcome
from .encoding import Encoded
from .survey import Survey
from .target import remove_partials

CELL = 100_000  # letters of a cell of the table: Python's own reader of such tables stops at 131,072
SHOWN = 5  # of the lost, in messages


class Counted(NamedTuple):
    """How many remarks there are of one kind, and the first of them."""

    files: int
    first: Remark


class Sieve:
    """Passes the samples on, and writes down what each row was, why others did not become one, and the remarks."""

    def __init__(
        self,
        found: Survey,
        target: Path,
        max_bad: float | None,
        progress: Callable[[int, int], None],
        stack: ExitStack,
    ) -> None:
        self._found, self._target, self._progress, self._stack = found, target, progress, stack
        self._all = found.images + found.lost
        self._limit = max_bad if max_bad is None or max_bad >= 1 else int(max_bad * self._all)
        self._files: dict[str, TextIO] = {}
        self.rejected, self.first_rejected = 0, list[Rejected]()
        self.remarks: dict[str, Counted] = {}

    def samples(self, outcomes: Iterator[Outcome]) -> Iterator[Sample]:
        """The samples among `outcomes`; raises ValueError where none is left, or more are unusable than are borne."""
        remove_partials(self._target)  # what a killed conversion left
        columns = csv.writer(self._open("columns"))
        columns.writerow(["row", "file_name", *self._found.columns])
        row, count = 0, self._all
        for outcome in outcomes:
            if isinstance(outcome, Remark):
                self._remark(outcome)
                continue
            if isinstance(outcome, Rejected):
                self._reject(outcome)
            elif (data := _bytes_of(*outcome)) is None:
                self._reject(Rejected(outcome[0].path, "the file changed while it was being converted"))
            elif outcome[0].label not in self._found.number:
                self._reject(Rejected(outcome[0].path, "its class came while the source was being converted: convert again"))
            elif row == self._found.images:
                raise ValueError(f"{outcome[0].path} came while the source was being converted: convert it again")
            else:
                candidate, result = outcome
                columns.writerow([row, *(text[:CELL] for text in (candidate.name, *candidate.facts))])
                row += 1
                for remark in result.remarks:
                    self._remark(remark)
                yield Sample(result.mode, result.width, result.height, self._found.number[candidate.label], data)
            self._progress(min(row + self.rejected, count), count)
        if not row:
            path, reason = self.first_rejected[0]
            raise ValueError(f"not one of {count} files is a usable image: the first, {path}: {reason}")

    def _remark(self, remark: Remark) -> None:
        count, first = self.remarks.get(remark.kind, (0, remark))
        self.remarks[remark.kind] = Counted(count + 1, first)
        self._write("remarks", remark)

    def _reject(self, item: Rejected) -> None:
        self.rejected += 1
        if self.rejected <= SHOWN:
            self.first_rejected.append(item)
        self._write("quarantine", item)
        if self._limit is not None and self.rejected > self._limit:
            shown = "; ".join(f"{path}: {reason}" for path, reason in self.first_rejected)
            told = f"{self.rejected} of {self._all} files are unusable, more than --max-bad bears"
            raise ValueError(f"{told}: {shown}")

    def _write(self, sidecar: str, item: Rejected | Remark) -> None:
        file = self._files.get(sidecar) or self._open(sidecar)
        file.write(json.dumps(item._asdict()) + "\n")

    def _open(self, sidecar: str) -> TextIO:
        path = partial(sidecars(self._target)[sidecar])
        # newline: csv and json lines end their own lines; errors: what is no Unicode is shown by its code
        file = self._stack.enter_context(make_text(path, errors="backslashreplace", newline=""))
        self._files[sidecar] = file
        return file

    def close(self) -> None:
        """Bring what was written down to the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())


def _bytes_of(candidate: Candidate, result: Encoded) -> bytes | None:
    """What the row holds; None where it is the candidate's own bytes and these are no longer those that were checked."""
    if result.data is not None:
        return result.data
    try:
        content, stamp = candidate.place.fetch()
    except (OSError, ValueError):
        return None
    return content if isinstance(content, bytes) and stamp == result.stamp else None
