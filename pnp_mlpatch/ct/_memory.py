"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

GIB = 2**30
UNKNOWN = 8.0  # GiB, where nothing is known


def available_gib() -> float:
    """Return the memory that is free: of the machine, its control groups and the process limits.

    Returns
    -------
    float
        GiB; 8 where none of them is known.
    """
    known = [_machine_free(), *_groups_free(), *_limits_free()]
    free = [value for value in known if value is not None]
    return max(0.0, min(free)) / GIB if free else UNKNOWN


def _machine_free() -> float | None:
    return _field_of(Path("/proc/meminfo"), "MemAvailable:", 1024)


def _groups_free(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[float]:
    """Return what the control groups of this process (version 1 or 2) and their parents leave."""
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    free = []
    for _, controllers, place in (line for line in lines if len(line) == 3):
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        names = ("memory.max", "memory.current")
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        folder = base / place.strip("/")
        for group in (*[folder, *folder.parents][: len(Path(place).parts)], base):
            limit, used = (_number_in(group / name) for name in names)
            if limit is not None and used is not None:
                # the page cache that the group can drop is free
                cached = _field_of(group / "memory.stat", "inactive_file", 1) or 0.0
                free.append(limit - used + min(cached, used))
    return free


def _limits_free() -> list[float]:
    """Return what ``ulimit -v`` and ``ulimit -d`` leave."""
    try:
        import resource
    except ImportError:  # not on Windows
        return []
    limits = {"VmSize:": resource.RLIMIT_AS, "VmData:": resource.RLIMIT_DATA}
    free = []
    for name, limit in limits.items():
        soft, used = resource.getrlimit(limit)[0], _field_of(Path("/proc/self/status"), name, 1024)
        if soft != resource.RLIM_INFINITY:
            free.append(soft - (used or 0.0))
    return free


def _number_in(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="utf-8"))  # "max", no limit, is none
    except (OSError, ValueError):
        return None


def _field_of(path: Path, name: str, unit: int) -> float | None:
    """Return the number behind a name, in bytes."""
    try:
        lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
        return next(float(words[1]) * unit for words in lines if words[:1] == [name])
    except (OSError, StopIteration, ValueError, IndexError):
        return None


__all__ = ["available_gib"]
