"""The study of open loop against closed loop: its figures follow from stored rows, and it runs whole."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.correlation import __main__ as command
from benchmarks.correlation import checkpoints, page, rows, runs
from benchmarks.correlation.checkpoints import Checkpoint, Study, given
from benchmarks.correlation.figures import (
    COEFFICIENTS,
    correlations,
    disordered,
    figure_of,
    steps_of,
)
from benchmarks.correlation.rows import Rows
from latentvla_core.errors import DataError, SetupError
from latentvla_core.training.config import with_training
from latentvla_core.world.write import WorldConfig

torch.set_num_threads(1)
DOCS = Path(__file__).parents[2] / "docs"
LENGTHS = (4.0, 20.0)


def little(count: int = 8, logs: int = 6, scenes: int = 9) -> Rows:
    """Planners 0 … n - 1, each better than the last in open loop; they drive in that order for 4 s
    and in the opposite one for 20 s. Logs and scenes differ in how hard they are, the same for all.
    """
    names = [Checkpoint(name=f"p{i}", kind="imitation", host="ipad") for i in range(count)]
    skill, hard = np.linspace(0.2, 0.8, count), np.linspace(-0.1, 0.1, logs)
    scene = np.linspace(-0.1, 0.1, scenes)
    opened = skill[:, None] + hard[None]
    closed = np.stack([skill[:, None] + scene, 1 - skill[:, None] + scene], axis=-1)
    return Rows(
        names, LENGTHS, np.full((count, logs), 5.0),
        {"pdms": opened, "epdms": opened}, {"cls": closed, "ds": 100 * closed},
    )  # fmt: skip


def test_coefficients_are_those_of_scipy_ties_too():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 4, 12)).astype(float)
    theirs = {"Spearman": stats.spearmanr, "Pearson": stats.pearsonr, "Kendall": stats.kendalltau}
    for name, coefficient in COEFFICIENTS.items():
        expected = [theirs[name](a, b).statistic for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(coefficient(x, y), expected, atol=1e-12)
    assert np.isnan(COEFFICIENTS["Kendall"](np.ones(5), np.arange(5.0)))


@pytest.mark.parametrize("over", ["checkpoints", "scenes", "both"])
def test_an_order_that_turns_over_after_the_plan_is_seen(over):
    found = correlations(little(), np.arange(8), over, draws=200)
    values = found["Spearman", "pdms", "cls"]
    assert values[0].tolist() == [1.0, -1.0]
    fall = figure_of(values[:, 1] - values[:, 0])
    assert fall.sign == -1 and fall.value == pytest.approx(-2.0)


def test_hard_scenes_that_are_hard_for_all_make_no_interval():
    values = correlations(little(), np.arange(8), "scenes", draws=200)["Kendall", "epdms", "ds"]
    assert figure_of(values[:, 0]) == (1.0, 1.0, 1.0)


def test_scenes_of_a_log_weigh_alike():
    one = little()
    counts = one.scenes_per_log.copy()
    counts[:, 0] = 50.0
    opened = one.open_loop["pdms"].copy()
    opened[0, 0] = 9.0  # the worst planner shines in the log with many scenes
    swayed = replace(one, scenes_per_log=counts, open_loop={"pdms": opened, "epdms": opened})
    values = correlations(swayed, np.arange(8), "scenes", draws=5)["Spearman", "pdms", "cls"]
    assert values[0, 0] < 0.5


def with_rl(rise: float) -> Rows:
    """`little`, and a twin of planner 3 whose plans are worth more and whose drives are worth less."""
    one = little()
    child = Checkpoint(name="p3-rl", kind="rl", host="ipad", parent="p3", recipe="grouped")
    more = {k: np.concatenate([v, v[3:4] + rise]) for k, v in one.open_loop.items()}
    less = {k: np.concatenate([v, v[3:4] - 0.1]) for k, v in one.closed_loop.items()}
    counts = np.full((9, 6), 5.0)
    return Rows([*one.checkpoints, child], LENGTHS, counts, more, less)


def test_a_training_that_gains_plans_and_loses_drives_is_named():
    turned = steps_of(with_rl(0.05), draws=50)
    assert [s.child.name for s in turned] == ["p3-rl"]
    assert turned[0].changes["pdms"].value == pytest.approx(5.0)
    drives = [f"{score} after {s} s" for score in ("CLS", "DS") for s in (4, 20)]
    assert set(turned[0].inverts) == {(a, b) for a in rows.OPEN for b in drives}
    assert not steps_of(with_rl(-0.05), draws=50)[0].inverts
    told = page.write(with_rl(0.05), None, None, draws=50)
    told = " ".join(told.split())
    assert "moved PDMS and CLS after 20 s in opposite directions in 1 of 1: p3-rl" in told
    assert "turned no pair of scores round" in page.write(with_rl(-0.05), None, None, draws=50)


def test_pairs_in_opposite_order_are_counted_with_and_without_the_marked():
    x, mark = np.array([1.0, 2.0, 3.0]), np.array([False, False, True])
    assert disordered(x, np.array([1.0, 2.0, 0.0]), mark) == (1.0, 0.0)
    assert disordered(x, np.array([2.0, 1.0, 3.0]), mark) == (0.0, 1.0)


def test_page_and_picture_say_that_it_falls(tmp_path):
    doc, image = tmp_path / "page", tmp_path / "study.png"
    doc.write_text(f"# T\n\n{page.BEGIN}\nold\n{page.END}\nprose\n")
    page.write(little(), doc, image, draws=100)
    text = doc.read_text()
    assert "old" not in text and text.endswith(f"{page.END}\nprose\n")
    assert "PDMS with DS: +1.00" in text and "after 20 s; falls (-2.00" in text
    assert image.read_bytes()[:4] == b"\x89PNG"
    doc.write_text("bare")
    with pytest.raises(SetupError, match="has no lines"):
        page.replace(doc, "x")


def test_folders_made_elsewhere_are_given_in_one_word():
    for wrong in ("ipad=DIR", "rl:x", "story:x=DIR"):
        with pytest.raises(SetupError, match="KIND:NAME=FOLDER"):
            given(wrong)


NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def test_the_page_says_what_its_rows_say():
    """Every word and figure; the last digit of an interval may depend on the processor."""
    doc = (DOCS / "results" / "correlation.md").read_text()
    shown = doc.split(page.BEGIN)[1].split(page.END)[0].strip()
    told = page.write(rows.read(DOCS / "results" / "correlation"), None, None)
    assert NUMBER.sub("#", told) == NUMBER.sub("#", shown)
    ours, theirs = ([float(n) for n in NUMBER.findall(text)] for text in (told, shown))
    np.testing.assert_allclose(ours, theirs, atol=0.15)
    assert len(rows.read(DOCS / "results" / "correlation").of(page.LEARNED)) >= 20


# ---- whole ---------------------------------------------------------------------------------------

SMALL = WorldConfig(
    seed=21, logs_train=1, logs_val=0, logs_test=1, seconds_per_log=9.0, picture_wh=(96, 54)
)


@pytest.mark.slow
def test_it_runs_whole_and_goes_on_where_it_was(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "WORLD", SMALL)
    monkeypatch.setattr(command, "USUAL", ("bend",))
    monkeypatch.setattr(runs, "SECONDS", 5.0)
    monkeypatch.setattr(runs, "PICTURE_WH", (96, 54))
    monkeypatch.setattr(checkpoints, "HOSTS", ("transfuser",))
    quick = with_training(checkpoints.PlannerTrainConfig(), batch_size=2)
    monkeypatch.setattr(checkpoints, "PlannerTrainConfig", lambda: quick)
    study = Study(
        lengths=(1, 2), seeds=1, longer=(), rl_from=2, rl=(("transfuser", "one_plan", 1),)
    )
    monkeypatch.setattr(command, "Study", lambda **_: study)
    words = ["drive", "--out", str(tmp_path), "--scenes", "1"]
    command.main(words)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json.gz")}
    found = rows.read(tmp_path / "rows")
    names = [c.name for c in found.checkpoints]
    assert {"transfuser-2-0", "transfuser-2-0-one_plan-1", "human", "pdm_closed"} <= set(names)
    assert found.closed_loop["ds"].shape == (len(names), 1, 2)
    human = names.index("human")
    assert found.closed_loop["ds"][human, 0, -1] == 100.0
    assert np.isfinite(found.open_loop["epdms"]).all()
    capsys.readouterr()
    command.main(words)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json.gz")} == stamps
    assert "1: 0 runs" in capsys.readouterr().out.replace("scene 1 of 1", "1")
    gone = next(tmp_path.glob("runs/blind/*.json.gz"))
    gone.rename(gone.with_suffix(".lost"))
    rows.collect(tmp_path, study.checkpoints())
    assert "blind" not in [c.name for c in rows.read(tmp_path / "rows").checkpoints]


def test_only_scenes_that_everybody_has_driven_are_kept():
    drives = [{"checkpoint": c, "scene": s} for c, s in ("a1", "b1", "a2", "b3", "a3")]
    assert [r["checkpoint"] + r["scene"] for r in rows.shared(drives)] == ["a1", "b1", "b3", "a3"]
    assert rows.shared([]) == []


def test_a_checkpoint_that_lacks_a_scene_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = {
        "checkpoints": [{"checkpoint": n, "kind": "floor", "host": ""} for n in "ab"],
        "open_loop": [
            {"checkpoint": n, "log": "l", "scenes": 3, "pdms": 0.5, "epdms": 0.5} for n in "ab"
        ],
        "closed_loop": [
            {"checkpoint": n, "scene": s, "prefix_s": 4.0, "cls": 1.0, "ds": 1.0}
            for n, s in (("a", "s1"), ("a", "s2"), ("b", "s1"))
        ],
    }
    for name, found in tables.items():
        pq.write_table(pa.Table.from_pylist(found), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="no cls for checkpoint b, scene s2, prefix_s 4.0"):
        rows.read(tmp_path)
