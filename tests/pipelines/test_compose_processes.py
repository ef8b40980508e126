"""docker-compose.yml as it is written, without containers: its commands, hosts and variables as
processes beside a PostgreSQL and an S3 server, and assets made through the web server.

Takes a minute or two: `make soak`, or LATENTVLA_SOAK=1.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request

import pytest
from compose_services import POSTGRES, WITHOUT, Services

from latentvla_core.lake.store import Lake

pytestmark = [
    pytest.mark.skipif(not os.environ.get("LATENTVLA_SOAK"), reason="dear: make soak"),
    pytest.mark.skipif(not POSTGRES, reason=WITHOUT),
]


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    made = Services(tmp_path_factory.mktemp("compose"))
    try:
        made.start_stores()
        made.start("mlflow", "mlflow:5000")
        made.start("code", "code:4000")
        made.start("webserver", "web:3000")
        made.start("daemon")
        yield made
    finally:
        made.stop()


def test_mlflow_answers_its_own_clients_and_no_others(services):
    def status(host: str) -> int:
        place = f"http://127.0.0.1:{services.ports['mlflow:5000']}"
        place += "/api/2.0/mlflow/experiments/search?max_results=1"
        request = urllib.request.Request(place, headers={"Host": host})
        try:
            return urllib.request.urlopen(request, timeout=60).status
        except urllib.error.HTTPError as error:
            return error.code

    assert [status(host) for host in ("mlflow:5000", "localhost:5000")] == [200, 200]
    assert status("somewhere.else") == 403


LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def test_assets_are_made_through_the_web_server_on_s3_and_postgresql(services):
    place = {"repositoryName": "__repository__", "repositoryLocationName": "latentvla"}
    tags = [
        {"key": "dagster/asset_partition_range_start", "value": "train-00"},
        {"key": "dagster/asset_partition_range_end", "value": "test-01"},
    ]
    wanted = [{"path": [name]} for name in ("logs", "frames", "scenes", "scene_worlds")]
    params = {
        "selector": {**place, "pipelineName": "baseline_scores", "assetSelection": wanted},
        "executionMetadata": {"tags": tags}, "runConfigData": {},
    }  # fmt: skip
    launched = services.ask(LAUNCH, p=params)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    end, status = time.monotonic() + 1200, ""
    while status not in ("SUCCESS", "FAILURE", "CANCELED") and time.monotonic() < end:
        time.sleep(3)
        status = services.ask(STATUS, id=launched["run"]["runId"])["runOrError"]["status"]
    assert status == "SUCCESS", services.logs()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in services.environment("code").items():
            patch.setenv(name, value)
        lake = Lake(services.environment("code")["LATENTVLA_LAKE"])
        assert lake.read("scenes").num_rows > 0
        assert lake.read("scene_worlds").num_rows == lake.read("scenes").num_rows
    query = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
    daemons = services.ask(query)["instance"]["daemonHealth"]["allDaemonStatuses"]
    assert all(daemon["healthy"] for daemon in daemons if daemon["required"]), daemons
