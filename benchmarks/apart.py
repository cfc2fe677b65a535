"""Benchmarks that measure each side in processes of its own."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


def measured(command: Sequence[str], threads: int, **further: str) -> dict[str, Any]:
    """What a fresh process says in its last line; "skipped" if it ran out of memory.

    Args:
        further: of its environment.
    """
    own = {"OMP_NUM_THREADS": str(threads), "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(
        command, env=os.environ | own | further, capture_output=True, text=True, check=False
    )
    if done.returncode == -9:
        return {"skipped": "the system ended the process: out of memory"}
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def settle(
    options: argparse.Namespace, full: Mapping[str, Any], quick: Mapping[str, Any]
) -> argparse.Namespace:
    """The options, with what was not given filled in: small numbers for `--quick`."""
    for name, value in (quick if options.quick else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options
