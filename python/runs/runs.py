"""A table of all runs below WORK, and WORK/index.html with plots of their losses and scores.

    python3 python/runs/runs.py --work work

The page needs no server, and takes nothing from elsewhere. Standard library only.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import argparse
import os

from sft.lib.errors import run
from sft.lib.table import text
from sft.watch.overview import collect, rows
from sft.watch.page import page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default="work", help="where everything is written (default: work)")
    work = Path(parser.parse_args().work).resolve()
    found = collect(work)
    if not found:
        print(f"there is no run below {work}")
        return
    print(text(rows(found)))
    target, part = work / "index.html", work / f".index.html.{os.getpid()}.part"
    part.write_text(page(found, work), encoding="utf-8")
    part.replace(target)
    print(f"plots: {target}")


if __name__ == "__main__":
    run(main)
