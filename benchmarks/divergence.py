"""Divergence over the whole vocabulary, ours against its peers: `python -m benchmarks.divergence`.

Peak memory and time of the mean over N tokens and its gradients, from hidden states and heads in
memory. The peers: naive PyTorch, TRL's `GKDTrainer.generalized_jsd_loss` and chunked loss, and
Liger's fused linear JSD, eager and compiled; `benchmarks.divergence_worker` says how each is
called. Every measurement is a process of its own, on the same numbers; the parties take turns.

time    seconds of the processor, and on the clock, of one call after a warm one. The first call,
        where something is compiled, is told beside it: cold, and with what the compiler has kept.
memory  the peak resident size above that before the call: gradients count, imports do not.
chunk   a peer with a chunk size is tried at several. Its fastest, its leanest and its default are
        measured again, and each number of ours meets the best of theirs, though that may be two
        chunk sizes, and that of their default. Ours runs at the one that the library chooses.
roof    4 products of N x D x V are needed with a trained head, 3 with a frozen one: what a large
        square product takes for as many, over the time taken, is the share of the roof.

All parties must agree in loss and gradients, or the exit code is 1. On a GPU, time is that of the
clock and memory that of torch's allocator.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autodidact.statistics import percentiles
from benchmarks.apart import measured, settle
from benchmarks.divergence_worker import PARTIES, Case, command
from benchmarks.table import Row, machine, show, write

PACKAGES = {"TRL": "trl", "Liger": "liger-kernel"}
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}
"""Largest difference from ours, relative for losses and norms, absolute for cosines. Seen: 8e-7."""
CHUNKS: dict[str, list[tuple[int, ...]]] = {
    "TRL chunked": [(4096, 32768), (4096, 4096), (512, 4096)],
    "Liger": [(1024,), (256,), (64,)],
    "Liger compiled": [(1024,), (256,), (64,)],
}
"""What is tried; first the default. TRL's are constants of a module that no option sets."""
QUICK: dict[str, list[tuple[int, ...]]] = {
    "TRL chunked": [(4096, 32768), (32, 1024)],
    "Liger": [(1024,), (16,)],
    "Liger compiled": [(16,)],
}
Runner = Callable[[Case, Path], dict[str, Any]]


def apart(case: Case, cache: Path) -> dict[str, Any]:
    """Measures in a fresh process, whose compiler keeps what it makes in `cache`."""
    return measured(command(case), case.threads, TORCHINDUCTOR_CACHE_DIR=str(cache))


@dataclass(eq=False)
class Seen:
    """What was measured of a party at one chunk size; `default` if that is its own choice."""

    case: Case
    samples: list[dict[str, Any]] = field(default_factory=list)
    default: bool = True

    @property
    def name(self) -> str:
        """The party with its version and chunk size."""
        maker, *way = self.case.party.split()
        words = [maker, *([metadata.version(PACKAGES[maker])] if maker in PACKAGES else []), *way]
        if not self.case.chunk:
            return " ".join(words)
        chunk = " x ".join(map(str, self.case.chunk))
        return f"{' '.join(words)}, chunk {chunk}{' (default)' if self.default else ''}"

    def values(self, what: str) -> np.ndarray:
        return np.array([each[what] for each in self.samples], float)

    def median(self, what: str) -> float:
        return float(np.median(self.values(what)))

    def speed(self) -> float:
        """The necessary flop over the time taken."""
        case, units = self.case, 3 if self.case.frozen else 4
        return units * 2 * case.tokens * case.hidden * case.words / self.median(clock(case))


def clock(case: Case) -> str:
    return "cpu" if case.device == "cpu" else "wall"


def explore(
    setting: Case, parties: Sequence[str], repeats: int, run: Runner, kept: Path
) -> tuple[list[Seen], float]:
    """All parties at all chunk sizes once, then the best of them in turns; and the roof."""
    tried = QUICK if setting.quick else CHUNKS
    roof = Seen(replace(setting, party="roof"))
    seen = [
        Seen(replace(setting, party=party, chunk=chunk), default=not number)
        for party in parties
        for number, chunk in enumerate(tried.get(party, [()]))
    ]

    def measure(one: Seen) -> None:
        cache = kept / "-".join(map(str, (*one.case.party.split(), *one.case.chunk)))
        found = run(one.case, cache)
        if "skipped" in found:
            print(f"  skipped: {one.name}: {found['skipped']}", flush=True)
        else:
            one.samples.append(found)

    for one in (roof, *seen):
        measure(one)
    seen = [one for one in seen if one.samples]
    again = [roof, *(one for one in seen if one.default or one in best(seen).values())]
    for turn in range(1, repeats):
        for one in again if turn % 2 else reversed(again):
            measure(one)
    return seen, roof.median(clock(setting))


def best(seen: Sequence[Seen]) -> dict[tuple[str, str], Seen]:
    """Of each party the fastest and the leanest, by (party, what)."""
    found: dict[tuple[str, str], Seen] = {}
    for one in seen:
        for what in (clock(one.case), "bytes"):
            other = found.setdefault((one.case.party, what), one)
            if one.median(what) < other.median(what):
                found[one.case.party, what] = one
    return found


def disagreement(seen: Sequence[Seen]) -> tuple[float, str]:
    """Largest difference from the first results of the first party, and where it is."""
    expected = seen[0].samples[0]["results"]
    found = (0.0, "nowhere")
    for one in seen:
        for results in (each["results"] for each in one.samples):
            for what, value in expected.items():
                size = 1.0 if what.startswith("cosine") else abs(value)
                gap = abs(results[what] - value) / size
                gap = gap if math.isfinite(gap) else math.inf
                found = max(found, (gap, f"{what} of {one.name}"))
    return found


def interval(ours: Seen, peer: Seen, what: str) -> tuple[float, float]:
    """Bootstrap over the repeats: 95% of the ratio of medians."""
    generator = np.random.default_rng(0)
    sides = []
    for values in (ours.values(what), peer.values(what)):
        picked = generator.integers(0, len(values), (4000, len(values)))
        sides.append(np.median(values[picked], axis=1))
    return percentiles(sides[0] / sides[1])


def report(title: str, seen: Sequence[Seen], roof: float) -> list[Row]:
    """Prints what was measured of every party; the rows are ours against the best of each."""
    for one in seen:
        first = ""
        if one.samples[0]["compiles"]:
            first = "; first call " + ", ".join(f"{s['first']:.1f}" for s in one.samples) + " s"
        print(
            f"  {one.name}: {one.median('cpu'):.3g} CPU s, {one.median('wall'):.3g} s, "
            f"{one.median('bytes') / 2**20:.0f} MiB, {one.speed() / roof:.0%} of the roof, "
            f"{len(one.samples)} times{first}"
        )
    chosen, ours, peers = best(seen), seen[0], seen[1:]
    timed, rows, shown = clock(ours.case), [], []
    wanted = [("CPU seconds", "cpu", timed, 1), ("seconds", "wall", timed, 1)]
    wanted = [*wanted[timed == "wall" :], ("peak MiB", "bytes", "bytes", 2**20)]
    for name, what, by, unit in wanted:
        for peer in peers:
            if peer.default or chosen[peer.case.party, by] is peer:
                pair = ours.median(what) / unit, peer.median(what) / unit
                rows.append(Row(f"{name}: {title}", *pair, peer.name))
                once = len(ours.samples) == len(peer.samples) == 1  # which has no interval
                low, high = interval(ours, peer, what)
                place = "" if once else f" [{low:.3f}, {high:.3f}]"
                shown.append(replace(rows[-1], peer_name=peer.name + place))
    for peer in peers:
        if chosen[peer.case.party, timed] is peer and peer.samples[0]["compiles"]:
            pair = ours.samples[0]["first"], peer.samples[0]["first"]
            rows.append(Row(f"first call, cold, seconds: {title}", *pair, peer.name))
            shown.append(rows[-1])
    product = f"a large square product, {roof / 1e9:.1f} GFLOP/s"
    rows.append(Row(f"share of the roof: {title}", ours.speed() / roof, 1.0, product))
    show(f"{title} (in brackets, if repeated: 95% of the ratio of medians)", [*shown, rows[-1]])
    return rows


def installed(parties: Sequence[str]) -> list[str]:
    """Ours first, then those whose package is there; the others are named."""
    found = ["ours"]
    for party in parties:
        package = PACKAGES.get(party.split()[0])
        if package and util.find_spec(package.replace("-", "_")) is None:
            print(f"skipped: {party}: {package} is not installed")
        elif party != "ours":
            found.append(party)
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.divergence", description=about)
    add = parser.add_argument
    add("--hidden", type=int, nargs="+", metavar="D", help="sizes (default 256 1024 2048)")
    add("--tokens", type=int, metavar="N", help="default 2048")
    add("--words", type=int, metavar="V", help="default 151936")
    add("--repeats", type=int, help="measurements of each (default 5)")
    add("--kinds", nargs="+", choices=("jsd", "reverse"), default=["jsd", "reverse"])
    add("--heads", nargs="+", choices=("trained", "frozen"), default=["trained", "frozen"])
    add("--parties", nargs="+", choices=tuple(PARTIES), default=list(PARTIES), metavar="PARTY")
    add("--threads", type=int, default=1, help="of each process (default 1)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=tuple(TOLERANCE), default="float32")
    add("--quick", action="store_true", help="small: 64 tokens of 32 numbers, 4096 words, once")
    add("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(arguments)
    full = {"hidden": [256, 1024, 2048], "tokens": 2048, "words": 151_936, "repeats": 5}
    quick = {"hidden": [32], "tokens": 64, "words": 4096, "repeats": 1}
    return settle(options, full, quick)


def main(arguments: Sequence[str] | None = None, run: Runner = apart) -> int:
    """Exit code 1 where a party's loss or gradients differ from ours, or nothing was measured."""
    options = parse(arguments)
    parties = installed(options.parties)
    packages = {PACKAGES[party.split()[0]] for party in parties if party.split()[0] in PACKAGES}
    torch.set_num_threads(options.threads)
    print(machine(*sorted(packages)))
    rows: list[Row] = []
    worst = 0.0
    settings = [
        Case("", kind, hidden, options.tokens, options.words, head == "frozen", (),
             options.threads, options.device, options.dtype, options.quick)
        for hidden in options.hidden for kind in options.kinds for head in options.heads
    ]  # fmt: skip
    for setting in settings:
        head = "frozen" if setting.frozen else "trained"
        title = f"{setting.kind}, D={setting.hidden}, head {head}"
        print(f"{title}, N={setting.tokens}, V={setting.words}, {setting.dtype}", flush=True)
        with tempfile.TemporaryDirectory() as kept:
            seen, roof = explore(setting, parties, options.repeats, run, Path(kept))
        if not seen or seen[0].case.party != "ours":
            continue
        rows += report(title, seen, roof)
        gap, where = disagreement(seen)
        worst = max(worst, gap)
        print(f"largest difference from ours: {gap:.1e} ({where})", flush=True)
        if options.json is not None:
            write(options.json, rows)
    allowed = TOLERANCE[options.dtype]
    print(f"largest difference of all: {worst:.1e}; allowed are {allowed:g}")
    return int(worst > allowed or not rows)


if __name__ == "__main__":
    raise SystemExit(main())
