"""What the atlas is made of."""

from __future__ import annotations

import pyarrow as pa

from pipelines.assets.latent_codes import each_once


def test_a_transition_that_several_scenes_show_counts_once_where_its_contexts_are_known():
    rows = [("a", 3, 2, "s1"), ("a", 3, 0, "s3"), ("a", 3, 1, "s2"), ("b", 3, 1, "s4"), ("a", 5, 1, "s3")]
    names = ("log_name", "timestamp_us", "step", "scene_token")
    labels = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    kept = each_once(labels).to_pylist()
    assert [row["scene_token"] for row in kept] == ["s3", "s4", "s3"]
    assert [row["step"] for row in kept] == [0, 1, 1]
