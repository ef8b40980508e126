"""The benchmark of identity measures what it says: what is read in a first and in a later look."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import identity
from latentvla_core.lake import identity as lake_identity


def test_a_second_look_reads_nothing_and_a_third_what_was_replaced(
    tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr(lake_identity, "SETTLED_NS", -3_600_000_000_000)
    identity.main([str(tmp_path), "--pictures", "700"])
    told = capsys.readouterr().out
    assert re.findall(r": ([\d,]+) pictures, ([\d,]+) read", told) == [
        ("700", "700"), ("700", "0"), ("700", "1"),
    ]  # fmt: skip
