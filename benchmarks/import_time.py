"""What `import pnp_mlpatch` costs on top of torch, with the three registries listed: medians of
fresh processes.

Run: python benchmarks/import_time.py
"""

import platform
import statistics
import subprocess
import sys

TORCH = "import time; t = time.perf_counter(); import torch; a = time.perf_counter() - t; "
OURS = TORCH + (
    "t = time.perf_counter(); import pnp_mlpatch as p; p.operators.names(), "
    "p.denoisers.names(), p.solvers.names(); "
    "print(a, time.perf_counter() - t)"
)


def main():
    runs = [
        tuple(
            map(
                float,
                subprocess.run(
                    [sys.executable, "-c", OURS], capture_output=True, text=True, check=True
                ).stdout.split(),
            )
        )
        for _ in range(7)
    ]
    torch_s, ours_s = (statistics.median(column) for column in zip(*runs, strict=True))
    print(
        f"torch {torch_s:.2f} s, pnp_mlpatch on top {ours_s:.3f} s "
        f"({100 * ours_s / torch_s:.0f} %), {platform.machine()}, "
        f"{platform.processor() or 'cpu'}"
    )


if __name__ == "__main__":
    main()
