"""Faults put on purpose into the command line and into the files that it reads; what came of each
is counted.

kills     solve, ct, massmap and train end without warning, once or twice: after some CPU time,
          before an operation on files, or within a write. The same command again must give the bits
          of an undisturbed run and leave no other files; at no time is the file half written.
disks     No file may exceed a random size or, for root, the disk is a small one: a sentence, exit
          status 2, and the old file whole. With room, the same command gives the bits of an
          undisturbed run.
races     Two runs with other settings on one output: one wins and the other is refused by the name
          of the output, or they ran one after the other. All files are those of one run.
damaged   A bit, a byte of the header, a row of bytes, the end, a piece or all of one file of an
          input is wrong: an error of this package, or the values of the whole input. Formats
          without a checksum may also give other values, which are counted; the others never.

Each trial runs in forked processes and has a seed of its own, which is printed where it fails:
--kills 1 --disks 0 --races 0 --damaged 0 --first SEED repeats it. Linux only.

Run: python benchmarks/faults.py [--kills 200] [--disks 100] [--races 100] [--damaged 4000] [--first
     0]
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, parse, publish
from fault_inputs import CHECKSUM, COMMANDS, READERS, digest, make_data, make_inputs, resume
from tqdm.auto import tqdm

import pnp_mlpatch.pipelines.mass_map
from pnp_mlpatch.errors import PnPError

LIMIT = 120  # seconds until a process counts as hanging
MEMORY = 4 << 30  # bytes that reading a damaged file may take
OLD = b"what an earlier run left"
COUNT = multiprocessing.RawValue("i")  # operations on files, shared with forked processes
Numbers = np.random.Generator


class Fault(Exception):
    """What went wrong, and what the process printed."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, or minus the signal, and what it printed."""

    status: int
    said: str

    def verdict(self) -> str:
        """'done', 'refused' (status 2 and one sentence), 'killed', or a fault by its name."""
        if "Traceback" in self.said:
            return "traceback"
        if self.status < 0:
            killed = -self.status in (signal.SIGKILL, signal.SIGPROF, signal.SIGXFSZ)
            return (
                "killed"
                if killed
                else "hang"
                if -self.status == signal.SIGALRM
                else f"crash by signal {-self.status}"
            )
        sentences = sum(line.startswith("pnp-mlpatch: ") for line in self.said.splitlines())
        return (
            "done"
            if self.status == 0
            else "refused"
            if (self.status, sentences) == (2, 1)
            else "no sentence"
        )

    def must(self, *verdicts: str) -> str:
        """The verdict; raise :class:`Fault` if it is none of these."""
        self.check(self.verdict() in verdicts, self.verdict())
        return self.verdict()

    def check(self, right: bool, fault: str) -> None:
        """Raise :class:`Fault` if something is not right."""
        if not right:
            raise Fault(fault, self.said)


def start(
    job: Callable[[], int], folder: Path, before: Callable[[], object] | None = None
) -> Callable[[], Ended]:
    """Fork a process that calls ``before()`` and ``job()`` in a folder; what is returned waits for
    its end.
    """
    read, write = os.pipe()

    def child() -> None:
        os.chdir(folder)
        os.dup2(write, 1)
        os.dup2(write, 2)
        signal.alarm(LIMIT)
        if before:
            before()
        sys.exit(job())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    os.close(write)

    def wait() -> Ended:
        with open(read, errors="replace") as file:
            said = file.read()
        process.join()
        return Ended(process.exitcode, said)

    return wait


@cache
def workplace() -> Path:
    """A folder for all trials, and in it the inputs."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    os.environ["PNP_MLPATCH_CACHE"] = str(folder / "cache")
    for name, make in (("data", make_data), ("inputs", make_inputs)):
        (folder / name).mkdir()
        here(make, folder / name)
    return folder


def new_folder() -> Path:
    """An empty folder in the workplace."""
    return Path(tempfile.mkdtemp(dir=workplace()))


def run(name: str, other: bool = False) -> Callable[[], int]:
    """A command, if asked with other settings."""
    return partial(COMMANDS[name].run, workplace() / "data", other)


def here(job: Callable[[], object], folder: Path) -> None:
    """Do a job in this process and in a folder, without its output; forked processes have what it
    imported.
    """
    home = os.getcwd()
    os.chdir(folder)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        job()
    os.chdir(home)


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder and below."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: its command, its files, its CPU time, its operations on files."""

    name: str
    files: dict[str, bytes]
    seconds: float
    operations: int

    @property
    def first(self) -> str:
        """The first of the final files."""
        return COMMANDS[self.name].finals[0]

    @property
    def largest(self) -> int:
        """The bytes of the largest file."""
        return max(map(len, self.files.values()))

    def put_old(self, folder: Path) -> Path:
        """Put an earlier file in the place of the first final file."""
        (folder / self.first).parent.mkdir(exist_ok=True)
        (folder / self.first).write_bytes(OLD)
        return folder / self.first

    def differs(self, folder: Path) -> str:
        """What is wrong with the files of another run; empty where nothing is."""
        files = contents(folder)
        wrong = [
            final for final in COMMANDS[self.name].finals if files.get(final) != self.files[final]
        ]
        more = sorted(files.keys() - self.files.keys())
        return (
            f"other bits in {', '.join(wrong)}"
            if wrong
            else f"left over: {', '.join(more)}"
            if more
            else ""
        )


@cache
def undisturbed(name: str, other: bool = False) -> Whole:
    """Run a command undisturbed."""
    folder = new_folder()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start(run(name, other), folder, partial(stop_at, None))().must("done")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Whole(
        name,
        contents(folder),
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        COUNT.value,
    )


# ---- kills, disks, races


def stop_at(operation: int | None) -> None:
    """Count what this process opens for writing, moves and removes; kill it before operation number
    ``operation``.
    """

    def hook(event: str, args: tuple[Any, ...]) -> None:
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if event in ("os.rename", "os.remove") or (writes and not str(args[0]).startswith("/dev/")):
            COUNT.value += 1
            if COUNT.value == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    COUNT.value = 0
    sys.addaudithook(hook)


def file_limit(size: int) -> None:
    """Let no file of this process grow beyond ``size`` bytes. Python ignores SIGXFSZ, so that
    writes fail.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def sudden(rng: Numbers, whole: Whole) -> Callable[[], object]:
    """An end without warning at a random moment. What SIGPROF and SIGXFSZ do by default is what
    SIGKILL does.
    """
    size = int(whole.largest * rng.random() ** 2)
    return (
        partial(signal.setitimer, signal.ITIMER_PROF, max(0.001, rng.uniform(0, whole.seconds))),
        partial(stop_at, int(rng.integers(1, whole.operations + 1))),
        lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_DFL), file_limit(size)),
    )[int(rng.integers(3))]


def kill(name: str, rng: Numbers, folder: Path) -> str:
    """End a command once or twice without warning, then run it."""
    whole = undisturbed(name)
    old = whole.put_old(folder)
    for _ in range(int(rng.integers(1, 3))):
        end = start(run(name), folder, sudden(rng, whole))()
        end.must("killed", "done")
        end.check(old.read_bytes() in (OLD, whole.files[whole.first]), "half a file")
    end = start(run(name), folder)()
    end.must("done")
    end.check(not whole.differs(folder), whole.differs(folder))
    return "same bits"


def disk(name: str, rng: Numbers, folder: Path) -> str:
    """Run a command where there is little room, then where there is enough."""
    whole = undisturbed(name)
    limit, pages = int(whole.largest * rng.random() ** 2), int(rng.integers(2, 120))
    small = os.geteuid() == 0 and rng.random() < 0.5 and mount(f"size={4096 * pages}", folder)
    try:
        old = whole.put_old(folder)
        end = start(run(name), folder, None if small else partial(file_limit, limit))()
        refused = end.must("done", "refused") == "refused"
        if refused:
            end.check(old.read_bytes() == OLD, "old file lost")
            if small:
                mount("remount,size=1g", folder)
            end = start(run(name), folder)()
            end.must("done")
        end.check(not whole.differs(folder), whole.differs(folder))
        return "refused, then same bits" if refused else "there was room"
    finally:
        if small:
            subprocess.run(["umount", folder], check=True)


def mount(options: str, folder: Path) -> bool:
    """Mount a disk in memory; whether that is allowed."""
    return (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True
        ).returncode
        == 0
    )


def race(name: str, rng: Numbers, folder: Path) -> str:
    """Run a command twice at about the same time, with other settings."""
    runs = [undisturbed(name), undisturbed(name, other=True)]
    later = partial(time.sleep, max(0.0, rng.uniform(-0.5, 1)) * runs[0].seconds)
    waits = [start(run(name), folder), start(run(name, other=True), folder, later)]
    ends = [wait() for wait in waits]
    verdicts = [end.must("done", "refused") for end in ends]
    ends[0].check("done" in verdicts, "both refused")
    faults = [
        whole.differs(folder)
        for whole, verdict in zip(runs, verdicts, strict=True)
        if verdict == "done"
    ]
    ends[0].check("" in faults, faults[0])
    if "refused" not in verdicts:
        return "one after the other"
    end = ends[verdicts.index("refused")]
    end.check(
        any(Path(file).parts[0] in end.said for file in runs[0].files), "refused without a name"
    )
    return "one refused"


# ---- damaged files


def reading(read: Callable[[], Any]) -> int:
    """Read, and print the digest of the values, or the error; the exit status."""
    warnings.simplefilter("always")
    try:
        print("values", digest(read()))
        return 0
    except PnPError as error:
        print("pnp-mlpatch:", " ".join(str(error).split()))
        return 2


def memory_limit() -> None:
    """Let this process take MEMORY more than it has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def damaged(content: bytes, rng: Numbers) -> bytes:
    """Damage a file at a random place."""
    b, at, length = bytearray(content), int(rng.integers(len(content))), int(rng.integers(1, 64))
    way = int(rng.integers(6))
    if way == 0:
        b[at] ^= 1 << int(rng.integers(8))
    elif way == 1:
        b[at % 600] = int(rng.choice([0, 255, 48, 57, int(rng.integers(256))]))
    elif way == 2:
        b[at : at + length] = bytes(len(b[at : at + length]))
    else:
        return bytes({3: b[:at], 4: b[:at] + b[at + length :], 5: rng.bytes(len(b))}[way])
    return bytes(b)


def reader(name: str) -> Callable[[], Any]:
    """What reads an input; "killed NAME" is what a command leaves that is killed after six tenths
    of its operations.
    """
    return (
        READERS[name]
        if name in READERS
        else partial(resume, name.removeprefix("killed "), workplace() / "data")
    )


@cache
def intact(name: str) -> tuple[Path, Ended]:
    """The folder of an input, and what reading it prints."""
    folder, again = workplace() / "inputs" / name, new_folder()
    if name not in READERS:
        folder, command = new_folder(), name.removeprefix("killed ")
        start(
            run(command), folder, partial(stop_at, int(0.6 * undisturbed(command).operations))
        )().must("killed")
    shutil.copytree(folder, again, dirs_exist_ok=True)
    here(partial(reading, reader(name)), again)
    whole = start(partial(reading, reader(name)), again)()
    whole.must("done")
    return folder, whole


def damage(name: str, rng: Numbers, folder: Path) -> str:
    """Read an input of which a file is damaged."""
    source, whole = intact(name)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    path = folder / str(rng.choice([path for path, content in contents(folder).items() if content]))
    path.write_bytes(damaged(path.read_bytes(), rng))
    end = start(partial(reading, reader(name)), folder, memory_limit)()
    if end.must("done", "refused") == "refused":
        return "refused"
    if end.said.splitlines()[-1] == whole.said.splitlines()[-1]:
        return "same values"
    if "Warning" in end.said and "Warning" not in whole.said:
        return "other values, warned of"
    end.check(
        name in READERS and name not in CHECKSUM,
        f"other values in spite of a checksum ({path.name})",
    )
    return "other values"


# ---- the campaign

# a trial, its kinds in turn, and the number of trials of --quick
PARTS: dict[str, tuple[Callable[[str, Numbers, Path], str], list[str], int]] = {
    "kills": (kill, [*COMMANDS], 6),
    "disks": (disk, [*COMMANDS], 4),
    "races": (race, [*COMMANDS], 4),
    "damaged": (damage, [*READERS] * 3 + [f"killed {name}" for name in COMMANDS], 120),
}


def trials(part: str, seeds: range, notes: list[str]) -> list[dict[str, Any]]:
    """Run the trials of a part; a row of counts for each kind."""
    trial, kinds, _ = PARTS[part]
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for seed in tqdm(seeds, part, disable=None):
        kind, folder = kinds[seed % len(kinds)], new_folder()
        try:
            counts[kind][trial(kind, np.random.default_rng(seed), folder)] += 1
        except Fault as fault:
            counts[kind]["wrong"] += 1
            what, said = fault.args
            last = (said.strip().splitlines() or ["nothing was said"])[-1]
            notes.append(f"{part}, seed {seed}, {kind}: {what}; {last[:200]}")
        shutil.rmtree(folder)
    outcomes = [*sorted(set().union(*counts.values()) - {"wrong"}), "wrong"]
    counts["all"] = sum(counts.values(), Counter())
    return [
        {part: kind, "trials": n.total(), **{outcome: n[outcome] for outcome in outcomes}}
        for kind, n in counts.items()
        if n
    ]


def main():
    parser = arguments(__doc__)
    for part, count in {"kills": 200, "disks": 100, "races": 100, "damaged": 4000}.items():
        parser.add_argument(f"--{part}", type=int, default=count, help=f"trials (default: {count})")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first trial")
    args = parse(parser)
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # forked processes with threads may hang
    sys.dont_write_bytecode = True
    pnp_mlpatch.pipelines.mass_map.SAVED = 0.0  # a checkpoint after every iteration
    notes: list[str] = []
    try:
        for name in COMMANDS:
            here(run(name), new_folder())
        tables = {}
        for part, (_, _, quick) in PARTS.items():
            seeds = range(
                args.first,
                args.first
                + (min(quick, getattr(args, part)) if args.quick else getattr(args, part)),
            )
            tables[part] = trials(part, seeds, notes)
    finally:
        shutil.rmtree(workplace())
    publish(args, tables, notes)


if __name__ == "__main__":
    main()
