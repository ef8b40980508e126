"""The lake on an object store (a local one, in this process): the same promises as on disk."""

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from label_rows import label

from latentvla_core.lake.maintenance import compact
from latentvla_core.lake.store import Lake

PLACE = {"split": "train", "shard": 0, "model_version": "m"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """In a process of its own: deltalake holds the interpreter lock while it waits for an answer."""
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def lake(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Lake:
    import boto3

    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    bucket = f"lake-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return Lake(f"s3://{bucket}/lake")


def test_shards_are_replaced_and_read_back(lake: Lake):
    assert lake.version("latent_actions") == -1
    lake.replace("latent_actions", [label("a"), label("b")], PLACE)
    lake.replace("latent_actions", [label("c", 1)], {**PLACE, "shard": 1})
    lake.replace("latent_actions", [label("d")], PLACE)
    assert lake.read("latent_actions")["scene_token"].to_pylist() == ["c", "d"]
    assert lake.rows("latent_actions", PLACE)[0]["ego_codes"].tolist() == list(range(4))


def test_compaction_sorts_joins_and_is_done_once(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("latentvla_core.lake.layout.ROWS_PER_GROUP", 2)
    monkeypatch.setattr("latentvla_core.lake.sorting.ROWS_PER_GROUP", 2)
    for log in "bac":
        lake.append("latent_actions", [label(f"{log}{i}", log_name=log) for i in range(3)])
    rows = str(lake.read("latent_actions").to_pylist())
    assert compact(lake, ["latent_actions"])[0].files_after == 1
    version, table = lake.version("latent_actions"), lake.delta("latent_actions")
    assert table is not None
    assert table.to_pyarrow_dataset().to_table(columns=["log_name"])[
        "log_name"
    ].to_pylist() == list("aaabbbccc")
    assert str(lake.read("latent_actions").to_pylist()) == rows
    compact(lake, ["latent_actions"])
    assert lake.version("latent_actions") == version


def test_a_partition_without_a_name_is_read_counted_sorted_and_replaced(lake: Lake):
    nameless = {**PLACE, "split": ""}
    for token in "ba":
        lake.append("latent_actions", [label(token, split=""), label(f"train-{token}")])
    compact(lake, ["latent_actions"])
    found = lake.rows("latent_actions", nameless)
    assert [(row["split"], row["scene_token"]) for row in found] == [("", "a"), ("", "b")]
    assert lake.counts("latent_actions", ("split",)) == {("", "f"): 2, ("train", "f"): 2}
    lake.replace("latent_actions", [], nameless)
    assert lake.read("latent_actions")["scene_token"].to_pylist() == ["train-a", "train-b"]


def test_sql_and_lineage_work_there_too(lake: Lake):
    lake.replace("latent_actions", [label("a")], PLACE)
    assert lake.sql("select ego_codes from latent_actions limit 5").to_pylist() == [
        {"ego_codes": list(range(4))}
    ]


@pytest.mark.slow
def test_nothing_lands_on_the_local_disk(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    lake.replace("latent_actions", [label("a")], PLACE)
    assert list(tmp_path.iterdir()) == []
