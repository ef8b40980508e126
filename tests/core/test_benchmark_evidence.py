"""The study's command: figures of a page come from stored rows, and a folder holds one study."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_evidence_scores import rows_of

from benchmarks.evidence import (
    CHAIN,
    END,
    FIGURES,
    chain_text,
    check_same,
    filled,
    finished,
    report,
    sized,
    store,
)
from latentvla_core.errors import SetupError
from latentvla_core.evidence.variants import VARIANTS
from latentvla_core.latent.config import LatentActionConfig

ARMS = {"menu": 0.0, "menu+student": 1.0, "menu+teacher": 1.5, "menu+oracle": 3.0}
PAGE = (
    f"# Title\n\n{CHAIN}\nGONE chain\n{END}\n\nprose stays\n\n{FIGURES}\nGONE figures\n{END}\nend\n"
)
TEACHER = {
    "teacher": "teacher", "seed": 0, "loss": 1.0, "blind_loss": 1.2, "marginal_loss": 2.0,
    "accuracy": 0.5, "blind_accuracy": 0.4, "marginal_accuracy": 0.2, "gain": 0.2,
    "gain_low": 0.1, "gain_high": 0.3, "is_handed_on": True, "refused": "",
}  # fmt: skip


def stored(folder, arms):
    rows = [{**row, "role": role} for role in ("test", "test_towns") for row in rows_of(arms)]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    pq.write_table(pa.Table.from_pylist([TEACHER]), folder / "teachers.parquet")
    return folder


def test_one_command_derives_page_tables_and_the_figures_of_a_text(tmp_path):
    doc = tmp_path / "evidence.md"
    doc.write_text(PAGE)
    out = tmp_path / "out"
    out.mkdir()
    report(stored(tmp_path / "rows", ARMS), out, doc)
    text = doc.read_text()
    assert "GONE" not in text
    assert "prose stays" in text
    assert text.endswith(f"{END}\nend\n")
    assert "| 20 | menu+teacher − menu | +1.50 [+1.50, +1.50] | +1.5 +1.5 | holds |" in text
    assert text.index("host < student ≤ teacher holds") < text.index("prose stays")
    for title in ("Test logs, same towns (12 logs, ", "Test logs, other towns", "Teachers on val"):
        assert f"## {title}" in text
    assert (out / "page.html").is_file()
    again = text
    report(tmp_path / "rows", out, doc)
    assert doc.read_text() == again


def test_a_page_without_marks_is_refused_and_kept(tmp_path):
    with pytest.raises(SetupError, match="has no lines <!-- figures --> … <!-- end -->"):
        filled(f"{CHAIN}\n{END}\n", "chain", "figures")
    with pytest.raises(SetupError, match="has no lines <!-- chain -->"):
        filled("nothing", "chain", "figures")


def test_the_text_says_a_failed_positive_control_before_the_chain():
    useless = chain_text(rows_of(ARMS | {"menu+oracle": 0.0}))
    assert useless.startswith("* The positive control of the blind host with 20 labelled logs")
    assert chain_text(rows_of(ARMS)).startswith("* host < student")


def test_a_folder_holds_one_study_that_may_grow(tmp_path):
    logs, config = sized("tiny")
    check_same(tmp_path / "study", logs, config)
    more = replace(config, study=replace(config.study, seeds=(0, 1), variants=("menu",)))
    check_same(tmp_path / "study", logs, more)
    with pytest.raises(SetupError, match="holds a study of another configuration"):
        check_same(tmp_path / "study", *sized("published"))


def test_the_published_size_is_the_published_study():
    logs, config = sized("published")
    assert (logs.unlabelled, logs.labelled, logs.val, logs.test, logs.test_towns) == (
        200, 200, 40, 112, 60,
    )  # fmt: skip
    assert config.study.labelled == (20, 76, 200)
    assert config.study.variants == tuple(VARIANTS)
    long = LatentActionConfig.long(steps=900, agent_weight=0.0, quality_every=0)
    assert config.latent == long  # no boxes: unlabelled logs have none


def test_a_run_is_known_by_arm_seed_and_number_of_logs(tmp_path):
    store(tmp_path / "run-menu+teacher-2-76.parquet", [{"a": 1}])
    assert finished(tmp_path) == [("menu+teacher", 2, 76)]
    assert not list(tmp_path.glob("*.partial"))
