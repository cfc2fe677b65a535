"""Fuzzing of what reads untrusted text: verifiers, arithmetic, user data, calls, limits.

    python tests/fuzz/fuzz_parsers.py HARNESS -max_total_time=60 [CORPUS FOLDER]

Needs `atheris` (the extra `fuzz`). What follows the harness goes to libFuzzer. A finding is an
exception, a wrong kind of verdict, or an input that takes more than a second for 4 KB.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
SECONDS = 1.0

with atheris.instrument_imports(include=["autodidact"]):
    from autodidact import calls
    from autodidact.tasks.files import from_file
    from autodidact.tasks.limits import Limits
    from verdicts import Graders, checked, graders, refused

FOLDER = tempfile.TemporaryDirectory()
GRADERS: Graders = graders(Path(FOLDER.name))
KINDS = (".jsonl", ".json", ".csv", ".tsv")


def one_verifier(data: bytes) -> None:
    """The first byte chooses the grader, the rest is what a model wrote."""
    names = list(GRADERS)
    if data:
        name = names[data[0] % len(names)]
        begun = time.process_time()
        checked(name, GRADERS[name](data[1:].decode("utf-8", "replace")))
        assert time.process_time() - begun < SECONDS, f"{name} took long"


def one_file(data: bytes) -> None:
    """The first byte chooses the kind of file, the rest is its content."""
    if data:
        path = Path(FOLDER.name) / f"fuzzed{KINDS[data[0] % len(KINDS)]}"
        path.write_bytes(data[1:])
        try:
            from_file(path, test=0)
        except ValueError as error:
            if not str(error).startswith(str(path)) or "\n" in str(error):
                raise


PIECES = (
    "opsd", "(", ")", "=", ",", "[", "]", "{", "}", ":", "'", "\"", "n", "-", "+", "*", "**", ".", "1",
    "1e999", "None", "True", "lambda: ", "f'{n}'", "not ", " if ", "...", "seconds", "memory", "env",
    "unscorable", "0x", "_", "\n", "\\", "#", "x" * 3000,
)  # fmt: skip
"""What calls and limits are made of, and what is none of it; a byte stands for a piece, or for
itself."""


def one_call(data: bytes) -> None:
    """A call and limits as a command line or a run file names them."""
    text = "".join(PIECES[byte] if byte < len(PIECES) else chr(byte) for byte in data)
    refused(calls.parse, text)
    refused(Limits.of, text)


HARNESSES = {"verifiers": one_verifier, "files": one_file, "calls": one_call}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in HARNESSES:
        sys.exit(f"which harness? {', '.join(HARNESSES)}")
    harness = HARNESSES[sys.argv.pop(1)]
    atheris.Setup(sys.argv, harness)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
