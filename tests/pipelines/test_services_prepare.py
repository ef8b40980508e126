"""A store is asked before the first run whether it keeps commits; one that would not is refused."""

from __future__ import annotations

import threading

import pytest
from object_store import free_port, object_store

from latentvla_core.errors import SetupError
from pipelines.services.prepare import _client, prepare, probe, wait_for

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_a_bucket_is_made_and_the_store_proved_and_nothing_is_left():
    with pytest.MonkeyPatch.context() as patch, object_store(patch):
        said: list[str] = []
        prepare("s3://fresh/lake", said.append)
        prepare("s3://fresh/lake", said.append)
        assert said[0] == "bucket fresh: made" and said[2] == "bucket fresh: there"
        assert "Contents" not in _client().list_objects_v2(Bucket="fresh")


class Careless:
    """A store that looks first and writes then, or never looks."""

    def __init__(self, looks: bool) -> None:
        self.looks, self.keys = looks, set[str]()
        self.meeting = threading.Barrier(8)

    def put_object(self, *, Key, **_):
        from botocore.exceptions import ClientError

        there = self.looks and Key in self.keys
        self.meeting.wait(5)
        if there:
            answer = {"ResponseMetadata": {"HTTPStatusCode": 412}, "Error": {}}
            raise ClientError(answer, "PutObject")  # pyright: ignore
        self.keys.add(Key)

    def delete_object(self, *, Key, **_):
        self.keys.discard(Key)


@pytest.mark.parametrize("looks", [True, False])
def test_a_store_that_would_lose_commits_is_refused(looks):
    store = Careless(looks)
    with pytest.raises(SetupError, match="8 of 8 simultaneous writers"):
        probe(store, "bucket")
    assert not store.keys


def test_a_folder_needs_nothing_and_a_silent_store_is_named(tmp_path, monkeypatch):
    said: list[str] = []
    prepare(str(tmp_path), said.append)
    assert "nothing to prepare" in said[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(SetupError, match="does not answer"):
        wait_for(lambda: _client().head_bucket(Bucket="b"), 0.2)
