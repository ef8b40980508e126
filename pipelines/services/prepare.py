"""`python -m pipelines.services.prepare`: wait for the object store, make the bucket, and refuse a
store that would lose commits.

Delta commits are `put this file if it is not there`. A store that ignores the condition, or looks
first and writes then, lets two writers both win; one of them loses its rows without a word.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from latentvla_core.errors import LatentVLAError, SetupError

WAIT_S = 120.0
WRITERS = 8
ROUNDS = 6


def prepare(lake: str, say: Callable[[str], None] = print) -> None:
    """Make the lake's bucket usable. A lake in a folder needs nothing."""
    if not lake.startswith("s3://"):
        return say(f"lake {lake} is a folder; nothing to prepare")
    bucket = lake.removeprefix("s3://").partition("/")[0]
    client = _client()
    made = wait_for(lambda: _make_bucket(client, bucket), WAIT_S)
    say(f"bucket {bucket}: {'made' if made else 'there'}")
    probe(client, bucket)
    say(f"bucket {bucket}: one of {WRITERS} simultaneous writers wins, as Delta commits need")


def probe(client: Any, bucket: str) -> None:
    """Put a key once and again, then by many writers at once. Raises SetupError where more than
    one of them is told that it was first.
    """
    from botocore.exceptions import ClientError

    def put(key: str) -> bool:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=uuid.uuid4().bytes, IfNoneMatch="*")
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in (409, 412):
                return False
            raise SetupError(f"bucket {bucket}: {error}; check the rights of the key") from error
        return True

    folder, keys = f".probe/{uuid.uuid4().hex}", list[str]()
    try:
        for number in range(ROUNDS):
            keys.append(f"{folder}/{number}")
            with ThreadPoolExecutor(WRITERS) as pool:
                won = sum(pool.map(put, [keys[-1]] * WRITERS))
            if won != 1:
                raise SetupError(
                    f"bucket {bucket}: {won} of {WRITERS} simultaneous writers were told that they"
                    " were first (If-None-Match: *); commits to Delta tables would be lost. Use AWS"
                    " S3, R2, Ceph or SeaweedFS >= 4.44"
                )
    finally:
        for key in keys:
            client.delete_object(Bucket=bucket, Key=key)


def wait_for(ask: Callable[[], Any], seconds: float) -> Any:
    """What `ask` returns, as soon as it does not fail to connect. Raises SetupError after that."""
    from botocore.exceptions import BotoCoreError

    end = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except BotoCoreError as error:
            if time.monotonic() > end:
                raise SetupError(
                    f"the object store does not answer after {seconds:.0f} s ({error}); check"
                    " AWS_ENDPOINT_URL and that it is running"
                ) from error
            time.sleep(min(1.0, seconds / 10))


def _make_bucket(client: Any, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise SetupError(f"bucket {bucket}: {error}; check the key and its rights") from error
        client.create_bucket(Bucket=bucket)
        return True
    return False


def _client() -> Any:
    import boto3
    from botocore.config import Config

    once = Config(retries={"max_attempts": 1}, connect_timeout=5, max_pool_connections=WRITERS)
    return boto3.client("s3", config=once)


def main() -> int:
    """Exit status: 0 ready, 1 refused with the reason."""
    from latentvla_core.lake.places import lake_root

    try:
        prepare(lake_root(os.environ))
    except LatentVLAError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
