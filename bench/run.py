"""The benchmark: Rollcall against what one would do without it, in one run, in pairs.

    ./dev bench                  1,000,000 records in five rounds, then 10,000,000 once: the figures that count
    ./dev bench --quick          200,000 records once, then 1,000,000: whether something got much worse
    ./dev bench --rows new,csv   some of it
    ./dev bench --peers          dlt and pandas as well

Prints Markdown: medians over the rounds; the ratio is the median of the rounds' ratios, so it means something on any
machine, seconds do not. What is above its goal is marked. A turn in which others used more than 15 % of the machine is
done again. Every result is compared, contact by contact, with what the files must become; a wrong one ends the run.
Needs about 20 GB of disk for temporary files (TMPDIR says where) and nothing that runs already.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg

import large
import pairs
import peers
import report
import sides
import small
from rollcall import embedded
from rollcall.errors import RollcallError
from stand import Group, Round, Scale, Stand, say

FULL = Scale(rounds=5, count=1_000_000, large=10_000_000, body=2 << 30, seconds=60, disk=20 << 30)
QUICK = Scale(rounds=1, count=200_000, large=1_000_000, body=256 << 20, seconds=10, disk=5 << 30)
GROUPS = pairs.GROUPS | small.GROUPS | large.GROUPS | peers.GROUPS
PERFORMANCE = Path("docs/performance.md")
FOREIGN_MAX = 0.15
TRIES = 5


@dataclass(frozen=True)
class Wish:
    """What was asked for."""

    groups: list[str]
    scale: Scale
    accept_noise: bool
    write: bool


def main() -> int:
    wish = _wish()
    kept: dict[str, list[Round]] = {name: [] for name in wish.groups}
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < wish.scale.disk:
        print(f"./dev bench: {tempfile.gettempdir()} has {free >> 30} GiB left; see TMPDIR.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # started by root, Postgres runs as somebody else, who has to pass
        with embedded.postgres(folder / "data") as server, psycopg.connect(server.url, autocommit=True) as session:
            version = session.info.server_version // 10_000
            try:
                measure(Stand(session, server.url, folder, wish.scale), wish, kept)
            except (sides.WrongResult, RollcallError) as error:
                print(f"./dev bench: {error}", file=sys.stderr)
                return 1
            finally:  # what was found before something broke is shown too
                text = report.markdown([(GROUPS[name], kept[name]) for name in wish.groups], wish.scale, version)
                print(text)
    if wish.write:
        report.write(PERFORMANCE, text)
    return 0


def _wish() -> Wish:
    parser = argparse.ArgumentParser(prog="./dev bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer records, one round")
    parser.add_argument("--rows", metavar="NAME,NAME", help=f"some of {', '.join(GROUPS)}")
    parser.add_argument("--peers", action="store_true", help="dlt and pandas as well (installed into .tools/peers)")
    parser.add_argument("--accept-noise", action="store_true", help="keep turns in which others used the machine")
    parser.add_argument("--write", action="store_true", help=f"put a full run's tables into {PERFORMANCE}")
    given = parser.parse_args()
    names = given.rows.split(",") if given.rows else [name for name in GROUPS if name != "peers"]
    names += ["peers"] if given.peers and "peers" not in names else []
    if unknown := [name for name in names if name not in GROUPS]:
        parser.error(f"no such rows: {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    if given.write and (given.quick or given.rows):
        parser.error("--write is for full runs")
    return Wish(names, QUICK if given.quick else FULL, given.accept_noise, given.write)


def measure(stand: Stand, wish: Wish, kept: dict[str, list[Round]]) -> None:
    """Fill `kept`. Raises WrongResult; then what was kept so far is still good."""
    rounds = [name for name in wish.groups if not GROUPS[name].once]
    for number in range(1, wish.scale.rounds + 1):
        for name in rounds:
            say(f"round {number} of {wish.scale.rounds}: {name}")
            kept[name].append(_quiet(stand, GROUPS[name], wish.accept_noise))
    for name in wish.groups:
        if GROUPS[name].once:
            say(f"once: {name}")
            kept[name].append(_quiet(stand, GROUPS[name], wish.accept_noise))


def _quiet(stand: Stand, group: Group, accept_noise: bool) -> Round:
    for _ in range(TRIES):
        found = group.run(stand)
        for name, cost in found.costs.items():
            say(f"  {name}: {cost.wall:.1f} s, CPU {cost.cpu_total:.1f} s, others {cost.foreign:.0%}")
        for figure in found.figures:
            say(f"  {figure.what}: {figure.value:.2f} {figure.unit}")
        loudest = max((cost.foreign for cost in found.costs.values()), default=0.0)
        if accept_noise or loudest <= FOREIGN_MAX:
            return found
        say(f"others used {loudest:.0%} of the machine; once more")
    raise sides.WrongResult("The machine is not quiet enough to measure on. Stop what runs, or pass --accept-noise.")


if __name__ == "__main__":
    sys.exit(main())
