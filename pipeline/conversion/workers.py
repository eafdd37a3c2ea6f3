"""Encoding in processes of their own, in order: one that dies or hangs costs its image, never the conversion.

Each worker has a pipe of its own, one task in work and at most one waiting. Why not a pool of the standard library or of
pebble: see docs/decisions/0009-own-workers.md.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

from ..sources.candidate import Candidate, Item, Rejected
from .chunks import Chunk, Outcome, Task, chunks_of, outcome_of, weight
from .encode import encode
from .encoding import Encoding

AHEAD = 4  # tasks a worker that are under way or wait for their turn to be written
HELD_BYTES = 1 << 28  # of results that wait for their turn: above that only the next in turn is listened to
PIECE_BYTES = 1 << 22  # a worker sends what it has when it has so much: a small PNG may hold 300 MB of pixels
QUEUED_BYTES = 1 << 16  # a task waits in a worker's pipe while that works on another, if it surely fits: no one blocks there
LIMIT_S = 60.0  # for a task; after that each image of it gets as much for itself
START_S = 120.0  # for a worker to start on a busy machine
MAX_FAILED_STARTS = 3

# Not `fork`: `train FOLDER` converts inside a process that already runs torch's threads. Not `spawn`: there each worker, and
# each that replaces one, would import the program anew (.4 s); the fork server imports it once.
SERVER = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Start what the workers will come from, and do not wait for it: there is a survey to be made meanwhile."""
    # Ctrl-C reaches the whole group, and a fork server that still imports would answer with a traceback. What is blocked
    # here is blocked there for ever.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def encoded(items: Iterator[Item], encoding: Encoding, *, workers: int) -> Generator[Outcome]:
    """What became of each item, in order, from `workers` processes; `workers` 0: in this one."""
    if workers == 0:
        yield from (outcome_of(item, encode(item, encoding)) if isinstance(item, Candidate) else item for item in items)
        return
    chunks, ordered, todo = chunks_of(items), deque[Chunk](), deque[Task]()
    with closing(_Crew(workers, encoding)) as crew:
        while True:
            while len(ordered) < AHEAD * workers and (chunk := next(chunks, None)):
                ordered.append(chunk)
                if places := [place for place, item in enumerate(chunk.items) if isinstance(item, Candidate)]:
                    todo.append(Task(chunk, places))
            if not ordered:
                return
            full = sum(chunk.held for chunk in ordered) > HELD_BYTES
            crew.work(todo, only=ordered[0] if full else None)
            while ordered:
                yield from ordered[0].ready()
                if not ordered[0].emitted:
                    break
                ordered.popleft()


@contextmanager
def _interrupts_noted() -> Iterator[None]:
    """Ctrl-C comes when this is over: between a request to the fork server and its data it would end the server."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if noted:
            signal.raise_signal(signal.SIGINT)


class _Worker:
    """A process, the pipe to it, and its tasks: the one it works on, and at most one that waits in the pipe."""

    def __init__(self, encoding: Encoding) -> None:
        self.pipe, theirs = SERVER.Pipe()
        self.process: ForkServerProcess = SERVER.Process(target=_serve, args=(theirs, encoding), daemon=True)
        with _interrupts_noted():
            self.process.start()
        theirs.close()  # so that its death is the end of the pipe
        self.tasks = deque[Task]()
        self.ready = False
        self.deadline = time.monotonic() + START_S

    def stop(self) -> int | None:
        """End it, whatever it does; returns its exit code, if it had ended by itself."""
        self.process.join(timeout=0.1)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return code


class _Crew:
    """The workers."""

    def __init__(self, count: int, encoding: Encoding) -> None:
        self._count, self._encoding = count, encoding
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def work(self, todo: deque[Task], *, only: Chunk | None) -> None:
        """Hand out tasks, wait until something happens, and note it in the chunks; a failed task comes back in pieces.

        With `only`, answers for other chunks are left in their pipes, where their workers wait to get rid of them.
        """
        while len(self._workers) < min(self._count, len(todo) + len(self._workers)):
            try:
                self._workers.append(_Worker(self._encoding))
            except (EOFError, OSError) as error:  # the fork server has just died: the next start brings another
                self._note_failed_start(f"{type(error).__name__}: {error}")
                time.sleep(0.1 * self._failed_starts)  # for some ms the dead one still counts as alive
        for worker in self._workers:
            self._hand_out(worker, todo)
        busy = [worker for worker in self._workers if worker.tasks or not worker.ready]
        if only and any(worker.tasks and worker.tasks[0].chunk is only for worker in busy):
            busy = [worker for worker in busy if worker.tasks and worker.tasks[0].chunk is only]
        if not busy or not (todo or any(worker.tasks for worker in busy)):
            return
        earliest = min(worker.deadline for worker in busy)
        heard = wait([worker.pipe for worker in busy], timeout=max(0.0, earliest - time.monotonic()))
        for worker in busy:
            if worker.pipe in heard:
                self._hear(worker, todo)
            elif worker.deadline < time.monotonic():
                self._lose(worker, todo, f"took longer than {LIMIT_S:.0f} s")

    def _hand_out(self, worker: _Worker, todo: deque[Task]) -> None:
        while worker.ready and todo and len(worker.tasks) < 2:
            message = todo[0].message()
            if worker.tasks and len(message) > QUEUED_BYTES:
                return
            if not worker.tasks:
                worker.deadline = time.monotonic() + LIMIT_S
            worker.tasks.append(todo.popleft())
            with suppress(OSError):  # it died idle: _hear will meet the end of its pipe
                worker.pipe.send_bytes(message)

    def _hear(self, worker: _Worker, todo: deque[Task]) -> None:
        try:
            results = worker.pipe.recv()
        except (EOFError, OSError):
            self._lose(worker, todo, "")
            return
        if not worker.ready:
            worker.ready = True
        else:
            task = worker.tasks[0]
            for result in results:
                task.chunk.note(task.places.popleft(), result)
            if not task.places:
                worker.tasks.popleft()
        worker.deadline = time.monotonic() + LIMIT_S if worker.tasks else float("inf")
        self._hand_out(worker, todo)

    def _lose(self, worker: _Worker, todo: deque[Task], why: str) -> None:
        """Replace a worker; of its task each image is tried alone, and one that was alone is the culprit."""
        code = worker.stop()
        self._workers.remove(worker)
        if not worker.ready:
            self._note_failed_start(why or f"exit code {code}")
        if not worker.tasks:
            return
        task, *waiting = worker.tasks
        todo.extendleft(waiting)
        if len(task.places) == 1:
            reason = why or f"the process that decoded it died with exit code {code} (out of memory?)"
            candidate = task.chunk.items[task.places[0]]
            task.chunk.note(task.places[0], Rejected(candidate.path, reason))
        else:
            todo.extendleft(Task(task.chunk, [place]) for place in reversed(task.places))

    def _note_failed_start(self, why: str) -> None:
        self._failed_starts += 1
        if self._failed_starts == MAX_FAILED_STARTS:
            raise OSError(f"conversion workers do not start ({why}): try --workers 0")

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.stop()


def _serve(pipe: Connection, encoding: Encoding) -> None:
    """What a worker does until its pipe ends, which the end of the conversion, even by kill -9, brings about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the conversion itself decides
    threading.Thread(target=_end_with_the_conversion, daemon=True).start()
    try:
        pipe.send("ready")
        while True:
            results, size = [], 0
            for candidate in pipe.recv():
                results.append(encode(candidate, encoding))
                size += weight(results[-1])
                if size > PIECE_BYTES:
                    pipe.send(results)
                    results, size = [], 0
            if results:
                pipe.send(results)
    except (EOFError, OSError):
        return


def _end_with_the_conversion() -> None:
    """A worker that is busy with an image does not see that its pipe has ended."""
    if conversion := multiprocessing.parent_process():
        conversion.join()
        os._exit(1)
