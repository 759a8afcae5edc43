"""``python -m benchmarks losses [--smoke] [--out FILE.csv]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.losses import measure, write_csv


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=["losses"])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, help="also write a CSV file")
    options = parser.parse_args()
    rows = measure(sizes=(64,) if options.smoke else (1024, 4096, 8192), repeats=1 if options.smoke else 5)
    if options.out:
        write_csv(rows, options.out)


if __name__ == "__main__":
    main()
