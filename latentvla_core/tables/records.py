"""What the line remembers of itself: models, releases, refused input, finished work."""

from __future__ import annotations

from latentvla_core.schema import TableSpec, integer, real, text
from latentvla_core.tables.columns import MADE_BY, WHERE

MODELS = TableSpec(
    "models",
    "one trained model",
    (
        text("name", "model name"),
        text("version", "fingerprint; the folder below models/<name>/"),
        text("recipe", "named configuration it was trained with"),
        text("path", "folder with config.json and safetensors"),
        integer("parameters", "number of weights"),
        text("metrics", "JSON: final metrics"),
        text("inputs", "JSON: table → Delta version read"),
        text("commit", "git commit of the code, if known"),
        real("seconds", "training time", "s"),
        text("mlflow_uri", "models:/… of the registered version"),
        MADE_BY,
    ),
    key=("name", "version"),
    partition_by=("name", "version"),
    is_record=True,
)

RELEASES = TableSpec(
    "releases",
    "one decision of the promotion gate",
    (
        text("name", "registered model"),
        text("version", "registered version that was judged"),
        integer("decided_us", "when, since 1970", "µs"),
        text("decision", "promoted, kept, refused, or rolled back"),
        text("champion", "version that holds the alias afterwards"),
        text("split", "held-out split"),
        text("metric_version", "metric name and devkit version"),
        real("challenger_score", "mean score of the judged version"),
        real(
            "champion_score",
            "mean score of the previous champion on the same scenes; NaN when there was none",
        ),
        integer("scenes", "scenes both were scored on"),
        real("difference", "challenger − champion, paired by scene; NaN when there was none"),
        real("difference_low", "low end of its 95 % interval, whole logs drawn again"),
        real("difference_high", "high end of it"),
        text("reason", "the rule that decided"),
        MADE_BY,
    ),
    key=("name", "decided_us"),
    partition_by=("name",),
    # Rows of version 1, one per model and without a time, stay readable at their Delta version.
    version=2,
)

QUARANTINE = TableSpec(
    "quarantine",
    "something that could not be used, and why",
    (
        text("stage", "stage that refused it"),
        *WHERE,
        text("file", "file, or log"),
        text("frame", "frame or scene token, if it is about one"),
        text("field", "field, if it is about one"),
        text("reason", "value, rule, remedy"),
        MADE_BY,
    ),
    key=("stage", "file", "frame", "field", "reason"),
    partition_by=("stage", "split", "shard"),
    is_record=True,
)

MATERIALISATIONS = TableSpec(
    "materialisations",
    "one finished piece of work: the lineage of every row",
    (
        text("asset", "asset"),
        text("partition", "<split>-<shard>, or empty"),
        MADE_BY,
        text("table_name", "table written"),
        integer("delta_version", "its Delta version after the write"),
        integer("rows", "rows written"),
        integer("quarantined", "rows refused"),
        text("inputs", "JSON: upstream asset → Delta version read"),
        text("recipe", "named configuration"),
        text("code_version", "code version of the asset"),
        text("commit", "git commit, if known"),
        text("run_id", "Dagster run"),
        real("seconds", "wall time", "s"),
        integer("finished_us", "when", "us"),
    ),
    key=("asset", "partition", "made_by", "finished_us"),
    partition_by=(),
    is_record=True,
)
