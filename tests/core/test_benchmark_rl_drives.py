"""The closed-loop figures of what learned from the score: who drives, in which order, what is said."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest

from benchmarks import rl_drives
from latentvla_core.closed_loop.scores.score import SCORES, TERMS

PLANNERS = ("imitation-0", "imitation-1", "shaped-0", "shaped-1")


def run(driver: str, scene: str, cls: float, seconds: float = 20.0) -> dict:
    """A row of `closed_loop_scores`."""
    return {
        **dict.fromkeys((*TERMS, *SCORES, "route_completion"), 0.0),
        "driver": driver, "scene": scene, "seed": 0, "traffic": "reactive", "situation": "merge",
        "prefix_s": seconds, "valid": True, "success": False, "cls": cls, "ds": 100 * cls,
    }  # fmt: skip


@pytest.fixture
def rows() -> list[dict]:
    """Seed 0 gains 0.2 in each of three scenes, seed 1 loses 0.1; scenes differ by far more."""
    level = {"a": 0.1, "b": 0.4, "c": 0.7}
    change = {"imitation-0": 0.0, "imitation-1": 0.1, "shaped-0": 0.2, "shaped-1": 0.0}
    return [
        run(driver, scene, base + change[driver], seconds)
        for driver in PLANNERS
        for scene, base in level.items()
        for seconds in (4.0, 20.0)
    ]


def test_differences_are_paired_by_scene_and_seed(rows):
    found = {
        (r["arm"], r["seeds"], r["prefix_s"]): r for r in rl_drives.differences(rows, PLANNERS)
    }
    assert set(found) == {("shaped", s, t) for s in ("0", "1", "0 1") for t in (4.0, 20.0)}
    one, other, both = (found["shaped", s, 20.0] for s in ("0", "1", "0 1"))
    assert one["cls_low"] == pytest.approx(0.2) == one["cls_high"]
    assert other["ds_mean"] == pytest.approx(-10.0)
    assert both["cls_mean"] == pytest.approx(0.05)


def test_a_scene_counts_once_everybody_has_driven_it(rows):
    late = [r for r in rows if not (r["driver"] == "shaped-1" and r["scene"] == "c")]
    kept = rl_drives.common([*late, run("stranger", "a", 0.5)], PLANNERS)
    assert {r["scene"] for r in kept} == {"a", "b"} and {r["driver"] for r in kept} == set(PLANNERS)


def test_the_table_and_its_file_say_what_changed(rows, tmp_path, capsys):
    rl_drives.told(rows, PLANNERS, tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("3 scenes") and "shaped seeds 0, 20 s: cls +0.20" in said
    assert "seeds 0 1, 4 s" in said and "seeds 0, 4 s" not in said
    assert len(list(csv.DictReader((tmp_path / "drives.csv").open()))) == 6
    rl_drives.told([], PLANNERS, tmp_path)
    assert "no scene has been driven by all yet" in capsys.readouterr().out


def test_a_set_that_is_cut_short_stays_balanced():
    named = ("merge", "merge", "bend", "bend", "bend")
    scenes = [SimpleNamespace(spec=SimpleNamespace(situation=n, number=i))
              for i, n in enumerate(named)]  # fmt: skip
    order = [v.spec.number for v in rl_drives.in_turns(scenes)]
    assert order == [0, 2, 1, 3, 4]


def test_planners_are_found_by_arm_and_seed_imitation_first(tmp_path):
    for name in ("shaped-0", "one_plan-1", "imitation-0", "imitation-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / ".half").mkdir()
    found = rl_drives.planners_in(tmp_path)
    assert [c.name for c in found] == ["imitation-0", "imitation-1", "one_plan-1", "shaped-0"]
    assert found[2].seed == 1 and found[0].folder == str(tmp_path / "imitation-0")
    few = rl_drives.planners_in(tmp_path, ["shaped"])
    assert [c.name for c in few] == ["imitation-0", "imitation-1", "shaped-0"]
    assert rl_drives.seeds_of([c.name for c in found], "one_plan") == [1]
