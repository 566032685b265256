"""The short form of benchmarks/faults.py: kills, full disks, races and damaged files; nothing may
go wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "faults.py"
TRIALS = {"kills": 6, "disks": 4, "races": 4, "damaged": 120}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """All tables, from a process of its own: what it forks must not have the threads
    of this one.
    """
    out = tmp_path_factory.mktemp("faults") / "faults.json"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--quick", "--json", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and limits of Linux")
@pytest.mark.parametrize("part", TRIALS)
def test_faults_do_no_harm(campaign, part):
    total = campaign["tables"][part][-1]
    assert total["trials"] == TRIALS[part]
    assert total["wrong"] == 0, "\n".join(
        note for note in campaign["notes"] if note.startswith(part)
    )
