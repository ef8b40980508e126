"""What a training reads shard by shard is what it read as one list, in the same order."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from scene_rows import record

from latentvla_core.data.records import row_from_record
from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.vlm import features as features_module
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.context import StageContext
from pipelines.steps.lineage import shard_of
from pipelines.steps.reading import features_of, labels_of, training_records

SHARDS = 3


def context_of(home) -> StageContext:
    env = {"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug"}
    made = StageContext(Settings.from_env(env | {"LATENTVLA_SHARDS": str(SHARDS)}), STAGES, print)
    made.__dict__["listing"] = []
    return made


def features(tokens: list[str], seed: int = 0) -> features_module.VlmFeatures:
    rng = np.random.default_rng(seed)
    made = features_module.empty(tokens, 3, 8, "")
    made.visual[:] = rng.normal(size=made.visual.shape)
    made.action[:] = rng.normal(size=made.action.shape)
    made.logits[:] = rng.normal(size=made.logits.shape)
    made.codes[:] = rng.integers(0, 16, made.codes.shape)
    made.valid[:] = rng.random(len(tokens)) < 0.8
    return made


@pytest.fixture
def context(tmp_path):
    """Twelve scenes whose order by token is not that of the shards; two have no features."""
    made, lake = context_of(tmp_path), Lake(str(tmp_path / "lake"))
    records = [record(f"{k * 7 % 12:02d}", k + 1.0) for k in range(12)]
    shards: dict[int, list] = {shard: [] for shard in range(SHARDS)}
    for one in records:
        shards[shard_of(one.log_name, SHARDS)].append(one)
    assert sum(bool(own) for own in shards.values()) > 1, "shards are mixed"
    for shard, own in shards.items():
        place = {"split": "train", "shard": shard}
        rows = [{**row_from_record(r), **place, "made_by": "m"} for r in own]
        lake.replace("scenes", rows, place)
        told = features([r.scene_token for r in own if r.scene_token not in ("03", "08")], shard)
        logs = {"log_name": "log", "model_version": "v", "made_by": "m", **place}
        rows = [{**row, "visual": np.ravel(row["visual"]), "action": np.ravel(row["action"]), **logs}
                for row in told.rows()]  # fmt: skip
        lake.replace("vlm_features", rows, place)
    return made


def same(one, other) -> bool:
    return all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(type(one))
    )


def test_records_are_those_of_the_whole_split_in_its_order(context):
    listed, streamed = context.records("train"), training_records(context, "labelled")
    assert len(streamed) == len(listed) == 12
    assert [r.scene_token for r in streamed] == sorted(r.scene_token for r in listed)
    assert all(same(one, other) for one, other in zip(listed, streamed, strict=True))
    assert not isinstance(streamed, list)
    assert same(streamed[5], listed[5]) and same(streamed[-1], listed[-1])


def test_features_are_those_of_one_table_in_the_order_of_the_records(context):
    records = training_records(context, "labelled")
    rows = context.lake.rows("vlm_features", {"split": "train"})
    tokens = [r.scene_token for r in records]
    expected = features_module.from_rows(rows).aligned(tokens)
    found = features_of(context, records, "vlm_features")
    assert found.scene_tokens == expected.scene_tokens == tuple(tokens)
    for name in features_module.ARRAYS:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert isinstance(found.visual, np.memmap) and not isinstance(expected.visual, np.memmap)
    absent = [tokens.index("03"), tokens.index("08")]
    assert not found.valid[absent].any()
    assert found.reasons[absent[0]] == expected.reasons[absent[0]] == "no features for this scene"


def test_files_of_features_have_no_name_and_are_gone_with_them(context):
    found = features_of(context, training_records(context, "labelled"), "vlm_features")
    scratch = context.settings.home / "scratch"
    assert scratch.is_dir() and not list(scratch.iterdir())
    assert float(found.visual[[0, 4]].astype(np.float32).sum()) == pytest.approx(
        float(np.asarray(found.visual)[[0, 4]].astype(np.float32).sum())
    )


def test_no_scenes_are_refused_and_no_features_are_none(tmp_path, context):
    assert features_of(context, training_records(context, "labelled"), "student_features") is None
    with pytest.raises(SetupError, match="split train has no scenes"):
        training_records(context_of(tmp_path / "empty"), "labelled")


def test_labels_of_streamed_records_are_those_of_listed_ones(context):
    streamed = labels_of(context, training_records(context, "labelled"))
    assert np.array_equal(streamed, labels_of(context, context.records("train")))
    assert streamed.shape == (12, 12) and (streamed == -1).all()


STREAM = """
import re, numpy as np, sys
from latentvla_core.vlm.features import NUM_ACTION_TOKENS, streamed
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1e3
tokens = [f"{k}" for k in range(400)]
def rows():
    for token in tokens:
        yield {"scene_token": token, "codes": np.zeros(12, np.int8), "valid": True, "reason": "",
               "logits": np.zeros((12, 16), np.float32),
               "visual": np.full(16 * 8192, float(token), np.float32),
               "action": np.zeros(12 * 8192, np.float32)}
before = anonymous()
found = streamed(rows(), tokens, sys.argv[1])
assert [int(found.visual[k, 0, 0]) for k in (0, 7, 399)] == [0, 7, 399]
print(found.visual.nbytes / 1e6 + found.action.nbytes / 1e6, anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_features_are_not_held_in_memory_of_their_own(tmp_path):
    command = [sys.executable, "-c", STREAM, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    size_mb, grown_mb = map(float, done.stdout.split())
    assert size_mb > 180 and grown_mb < size_mb / 4
