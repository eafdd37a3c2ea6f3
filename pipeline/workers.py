"""Encoding in processes of their own, in order: one that dies or hangs costs its image, never the conversion.

Why not a pool of the standard library or of pebble: ProcessPoolExecutor is broken as a whole by one death, and pebble loses
a task whose worker dies between taking and acknowledging it. Here each worker has a pipe of its own and one task at a time.
"""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import ForkingPickler
from typing import NamedTuple

from .sources.candidate import Candidate, Rejected
from .still import Encoded, Encoding, encode

CHUNK, CHUNK_BYTES = 64, 1 << 22  # of a task: at 32 px an image takes 0.1 ms, and pixels may be twenty times the bytes
AHEAD = 4  # tasks a worker may be ahead of the writer: bounds memory
QUEUED_BYTES = 1 << 16  # a task waits in a worker's pipe while that works on another, if it surely fits: no one blocks there
LIMIT_S = 60.0  # for a task; after that each image of it gets as much for itself
START_S = 120.0  # for a worker to start on a busy machine
MAX_FAILED_STARTS = 3

# Not `fork`: `train FOLDER` converts inside a process that already runs torch's threads. Not `spawn`: there each worker, and
# each that replaces one, would import the program anew (.4 s); the fork server imports it once.
SERVER = multiprocessing.get_context("forkserver")

Item = Candidate | Rejected
Outcome = tuple[Candidate, Encoded] | Rejected


def warm_up() -> None:
    """Start what the workers will come from, and do not wait for it: there is a survey to be made meanwhile."""
    forkserver.ensure_running()


def encoded(items: Iterator[Item], encoding: Encoding, *, workers: int) -> Generator[Outcome]:
    """What became of each item, in order, from `workers` processes; 0: in this one."""
    if workers == 0:
        yield from (_outcome(item, encode(item, encoding)) if isinstance(item, Candidate) else item for item in items)
        return
    chunks, ordered, todo = _chunks(items), deque["_Chunk"](), deque["_Task"]()
    more = True
    with closing(_Crew(workers, encoding)) as crew:
        while more or ordered:
            while more and len(ordered) < AHEAD * workers:
                if chunk := next(chunks, None):
                    ordered.append(chunk)
                    if chunk.open:
                        todo.append(_Task(chunk, 0, len(chunk.items)))
                else:
                    more = False
                    break
            crew.work(todo)
            while ordered and not ordered[0].open:
                done = ordered.popleft()
                for item, result in zip(done.items, done.results, strict=True):
                    yield _outcome(item, result)


def _outcome(item: Item, result: Encoded | Rejected | None) -> Outcome:
    if isinstance(item, Rejected):
        return item
    assert result is not None
    return result if isinstance(result, Rejected) else (item, result)


class _Chunk:
    """Consecutive items and what became of them."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.results: list[Encoded | Rejected | None] = [None] * len(items)
        self.open = sum(isinstance(item, Candidate) for item in items)


class _Task(NamedTuple):
    """Items `begin` to `end` of a chunk."""

    chunk: _Chunk
    begin: int
    end: int

    def candidates(self) -> list[tuple[int, Candidate]]:
        """Those that have to be encoded, with their position in the chunk."""
        numbered = enumerate(self.chunk.items[self.begin : self.end], start=self.begin)
        return [(index, item) for index, item in numbered if isinstance(item, Candidate)]


def _chunks(items: Iterator[Item]) -> Iterator[_Chunk]:
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += item.size if isinstance(item, Candidate) else 0
        if len(chunk) == CHUNK or size > CHUNK_BYTES:
            yield _Chunk(chunk)
            chunk, size = [], 0
    if chunk:
        yield _Chunk(chunk)


class _Worker:
    """A process, the pipe to it, and its tasks."""

    def __init__(self, encoding: Encoding) -> None:
        self.pipe, theirs = SERVER.Pipe()
        self.process: ForkServerProcess = SERVER.Process(target=_serve, args=(theirs, encoding), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is the end of the pipe
        self.tasks = deque["_Task"]()  # the one it works on, and at most one that waits in its pipe
        self.ready = False
        self.deadline = time.monotonic() + START_S

    def stop(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


class _Crew:
    """The workers."""

    def __init__(self, count: int, encoding: Encoding) -> None:
        self._count, self._encoding = count, encoding
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def work(self, todo: deque[_Task]) -> None:
        """Hand out tasks, wait until something happens, and note it in the chunks; a failed task comes back in pieces."""
        while len(self._workers) < min(self._count, len(todo) + len(self._workers)):
            self._workers.append(_Worker(self._encoding))
        for worker in self._workers:
            self._hand_out(worker, todo)
        busy = [worker for worker in self._workers if worker.tasks or not worker.ready]
        if not any(worker.tasks for worker in busy) and not todo:
            return
        earliest = min(worker.deadline for worker in busy)
        heard = wait([worker.pipe for worker in busy], timeout=max(0.0, earliest - time.monotonic()))
        for worker in busy:
            if worker.pipe in heard:
                self._hear(worker, todo)
        for worker in busy:
            if worker.deadline < time.monotonic():
                self._lose(worker, todo, f"took longer than {LIMIT_S:.0f} s")

    def _hand_out(self, worker: _Worker, todo: deque[_Task]) -> None:
        while worker.ready and todo and len(worker.tasks) < 2:
            message = ForkingPickler.dumps([candidate for _, candidate in todo[0].candidates()])
            if worker.tasks and len(message) > QUEUED_BYTES:
                return
            if not worker.tasks:
                worker.deadline = time.monotonic() + LIMIT_S
            worker.tasks.append(todo.popleft())
            with suppress(OSError):  # it died idle: _hear will meet the end of its pipe
                worker.pipe.send_bytes(message)

    def _hear(self, worker: _Worker, todo: deque[_Task]) -> None:
        try:
            results = worker.pipe.recv()
        except (EOFError, OSError):
            self._lose(worker, todo, "")
            return
        if not worker.ready:
            worker.ready, worker.deadline = True, float("inf")
        elif worker.tasks:
            task = worker.tasks.popleft()
            for (index, _), result in zip(task.candidates(), results, strict=True):
                task.chunk.results[index] = result
            task.chunk.open -= len(results)
            worker.deadline = time.monotonic() + LIMIT_S if worker.tasks else float("inf")
        self._hand_out(worker, todo)

    def _lose(self, worker: _Worker, todo: deque[_Task], why: str) -> None:
        """Replace a worker; of its task each image is tried alone, and one that was alone is the culprit."""
        if worker not in self._workers:
            return
        worker.process.join(timeout=0 if why else 5)
        code = worker.process.exitcode
        worker.stop()
        self._workers.remove(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == MAX_FAILED_STARTS:
                raise RuntimeError(f"conversion workers do not start ({why or f'exit code {code}'}): try --workers 0")
        if not worker.tasks:
            return
        task, *waiting = worker.tasks
        todo.extendleft(waiting)
        left = task.candidates()
        if len(left) == 1:
            ((index, candidate),) = left
            reason = why or f"the process that decoded it died with exit code {code} (out of memory?)"
            task.chunk.results[index] = Rejected(candidate.path, reason)
            task.chunk.open -= 1
        else:
            todo.extendleft(_Task(task.chunk, index, index + 1) for index, _ in reversed(left))

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.stop()


def _serve(pipe: Connection, encoding: Encoding) -> None:
    """What a worker does until its pipe ends, which the end of the conversion, even by kill -9, brings about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the conversion itself decides
    try:
        pipe.send("ready")
        while True:
            pipe.send([encode(candidate, encoding) for candidate in pipe.recv()])
    except (EOFError, OSError):
        return
