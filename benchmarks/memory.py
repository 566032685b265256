"""Memory of denoising with the shipped MLPatch: peak resident memory against image size, each size in a process of its own.

"extra" is the peak during D(x, sigma) less the memory before the image was made, less the image and its result.
Run: python benchmarks/memory.py [--sizes 256 512 1024 2048]
"""

import argparse
import resource
import subprocess
import sys

import torch

from pnp_mlpatch import denoisers
from pnp_mlpatch.report import table


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_one(size):
    D = denoisers.make("mlpatch")
    with torch.no_grad():
        D(torch.rand(1, 1, 64, 64), 0.1)  # one tile: the libraries and their buffers are there
        before = peak_mb()
        D(torch.rand(1, 1, size, size), 0.1)
    print(before, peak_mb())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one)
        return
    rows = []
    for size in args.sizes:
        done = subprocess.run([sys.executable, __file__, "--one", str(size)], capture_output=True, text=True, check=True)
        before, peak = map(float, done.stdout.split())
        images = 2 * 4 * size**2 / 2**20
        rows.append({"size": f"{size} x {size}", "image and result (MB)": images, "peak (MB)": peak, "extra (MB)": peak - before - images})
    print(table(rows))


if __name__ == "__main__":
    main()
