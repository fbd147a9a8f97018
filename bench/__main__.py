"""Measure rows and print one Markdown table. `python -m bench --help` tells the options."""

import argparse
import datetime
import json
import os
import signal
import sys
import time
from pathlib import Path

from bench.measure import Measured, measure
from bench.rows import ROWS
from bench.site import Site

HEAD = "| Measure | Case | Median | Ratio and target |\n| --- | --- | --- | --- |"


def main() -> int:
    """Measure; give 1 if a target was not met."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("row", nargs="*", help=f"rows to measure (default: all): {', '.join(ROWS)}")
    parser.add_argument(
        "--mib", type=int, default=1024, help="size of the large file; the table is for 1024, the default"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each row, its cases in turn (default 5)")
    parser.add_argument("--directory", type=Path, help="where to work on disk: room for 30 copies of the large file")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args()
    if unknown := sorted(set(options.row) - set(ROWS)):
        parser.error(f"no row {unknown[0]!r}: there are {', '.join(ROWS)}")
    about = f"{datetime.date.today()}, {os.cpu_count()} cores, {options.mib} MiB, median of {options.rounds} rounds"  # noqa: DTZ011 - a heading
    print(f"{about}\n\n{HEAD}", flush=True)
    done: list[Measured] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that far ends and files go too
    with Site(options.mib << 20, options.directory) as site:
        for name in options.row or ROWS:
            started = time.monotonic()
            done.append(measure(name, ROWS[name](site), options.rounds))
            print("\n".join(done[-1].lines()), flush=True)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    verdicts = [verdict for measured in done for verdict in measured.verdicts]
    print(f"\n{sum(v.is_met for v in verdicts)} of {len(verdicts)} targets met.")
    if options.json:
        options.json.write_text(json.dumps({"about": about, "rows": [row.as_json() for row in done]}, indent=1) + "\n")
    return 0 if all(verdict.is_met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
