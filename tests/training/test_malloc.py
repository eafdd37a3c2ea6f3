"""Freed memory stays with the process: what it maps anew is counted by the kernel as page faults."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from viewmill.training.malloc import keep_freed
done = keep_freed() if sys.argv[1] == "kept" else None
def faults():
    for _ in range(20):  # as activations: several at a time, then all freed
        held = [torch.ones(1 << 24) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
before = faults()
print(done, faults() - before)
"""


def ran(*arguments, **variables):
    """What keep_freed returned, and how many pages were mapped after a first round."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC", "MALLOC"))}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done, faults = subprocess.run(command, check=True, capture_output=True, text=True, env=plain | variables).stdout.split()
    return done, int(faults)


def test_blocks_that_were_freed_are_not_mapped_again():
    pages = 20 * 4 * (1 << 26) // 4096  # of what a round touches
    assert ran("plain")[1] > pages / 600  # a page may be a huge one of 2 MiB
    done, faults = ran("kept")
    assert done == "True"
    assert faults < 50


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
def test_what_the_user_has_tuned_is_left_alone(name):
    value = "glibc.malloc.arena_max=1" if name == "GLIBC_TUNABLES" else "1"
    assert ran("kept", **{name: value})[0] == "False"
