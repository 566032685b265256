"""``pnp-mlpatch train --self``: weights fine-tuned on a scan without truth."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from pnp_mlpatch.cli._ct import open_job
from pnp_mlpatch.cli.ct import add_parser
from pnp_mlpatch.errors import InputError

VOID = ("config", "data", "validation", "task", "precision", "set")  # flags without a meaning here


def run_self(args: argparse.Namespace) -> int:
    """Fine-tune weights on the scan of --self; say whether they are kept.

    Parameters
    ----------
    args : Namespace
        The flags of ``train``.

    Returns
    -------
    int
        The exit status: 0 also where the old weights are better.
    """
    from pnp_mlpatch.pipelines.ct_self import self_train

    given = [f"--{name}" for name in VOID if getattr(args, name)]
    if given:
        raise InputError(
            f"train --self takes the scan as its data; leave out {', '.join(given)}. The flags of "
            'ct go into --ct "...".'
        )
    if args.out is None:
        raise InputError("train --self: give --out FOLDER for the new weights.")
    parser = argparse.ArgumentParser("pnp-mlpatch train --self SCAN --ct")
    add_parser(parser.add_subparsers())
    flags = parser.parse_args(["ct", args.scan, *shlex.split(args.ct or ""), "--quiet"])
    scan, geometry, config, sections = open_job(flags)
    start = args.init or sections["denoiser"].get("weights")
    if start is None:
        start = "mlpatch-grey" if config.mu_water is None else "mlpatch-ct"
    begun = time.perf_counter()
    found = self_train(
        scan,
        geometry,
        Path(args.out),
        config,
        denoiser=args.denoiser or flags.denoiser,
        weights=start,
        steps=args.steps or 300,
        seed=args.seed or 0,
    )
    low, high = found.window
    print(
        f"noise of filtered backprojection of half of the views: {found.level:.3g} of the window "
        f"{low:.4g} to {high:.4g}; {time.perf_counter() - begun:.0f} s"
    )
    print(
        f"held-out views: mean square {found.before:.5g} of their noise with {start}, "
        f"{found.after:.5g} with the new weights, standard error {found.error:.2g}"
    )
    if found.kept:
        print(f"the new weights are kept: {found.weights} (pnp-mlpatch ct ... --weights PATH)")
    else:
        print(f"the new weights are not better, and were removed; stay with {start}")
    return 0


__all__ = ["run_self"]
