"""The benches that need nothing but this project: what the data path and control cost here.

`make bench` runs them, then bench/profile.py and bench/peers.py, which need programs of others.
Keep the machine idle meanwhile, and two cores free.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import (
    bench_control,
    bench_idle,
    bench_loop,
    bench_many,
    bench_ring,
    bench_workers,
    limit,
    report,
)

BENCHES = {
    "ring": bench_ring,
    "loop": bench_loop,
    "limit": limit,
    "control": bench_control,
    "idle": bench_idle,
    "many": bench_many,
    "workers": bench_workers,
}


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHES)}; all without")
    names = parser.parse_args().names or list(BENCHES)
    for name in names:
        if name not in BENCHES:
            parser.error(f"{name}: one of {', '.join(BENCHES)}")
    as_json = parser.parse_args().json
    for name in names:
        bench = BENCHES[name]
        own = report.parser(bench.__doc__)
        bench.arguments(own)
        results = bench.run(own.parse_args([]))
        report.show(name, results, bench.MEANING, as_json, getattr(bench, "verdict", None))


if __name__ == "__main__":
    main()
