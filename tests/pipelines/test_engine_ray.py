"""A Ray cluster of two nodes on an S3 lake leaves the table that one process leaves on a disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import toy_shards
from object_store import object_store

from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.store import Lake
from pipelines.engines.ray_cluster import Needs, on_ray, room
from pipelines.engines.shards import execute_shards
from pipelines.settings import Settings
from pipelines.steps.engine import Engine

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'latentvla[ray]'")


@pytest.fixture(scope="module")
def s3():
    """Root of a lake; the environment that reaches it is set before the cluster starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path or os.getcwd() for path in sys.path))
        with object_store(patch) as bucket:
            yield f"{bucket}/lake"


@pytest.fixture(scope="module")
def cluster(s3):
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20}
    )
    made.add_node(num_cpus=1, object_store_memory=100 << 20)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def settings_of(home: Path, **extra: str) -> Settings:
    (home / "orders").mkdir(parents=True)
    env = {"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug", "LATENTVLA_WORKERS": "1"}
    return Settings.from_env(env | extra)


def run(settings: Settings, said: list[str]):
    engine, stage = Engine(settings, toy_shards.STAGES, said.append), toy_shards.STAGES["toy"]
    return execute_shards(engine, stage, settings.partitions, stages=toy_shards.AT)


def test_two_engines_leave_equal_tables_though_a_worker_is_killed(cluster, s3, tmp_path):
    said: list[str] = []
    alone = settings_of(tmp_path / "alone")
    spread = settings_of(tmp_path / "ray", LATENTVLA_ENGINE="ray", LATENTVLA_LAKE=s3)
    (tmp_path / "ray" / "orders" / "die-val-00").write_text("1")
    run(alone, said)
    done = run(spread, said)
    one, other = (Lake(s.lake).read("latent_actions").combine_chunks() for s in (alone, spread))
    assert one.equals(other) and one.num_rows == 6
    lines = (tmp_path / "ray" / "orders" / "done").read_text().splitlines()
    partitions = [line.split()[1] for line in lines]
    assert sorted(partitions) == sorted(spread.partitions), "only the killed unit was done again"
    assert str(os.getpid()) not in {line.split()[0] for line in lines}
    assert done["val-00"].rows == 1 and "doing val-00" in said
    (tmp_path / "ray" / "orders" / "refuse-test-01").touch()
    assert all(outcome.skipped for outcome in run(spread, said).values())


def test_a_fault_on_the_cluster_keeps_its_kind_and_the_others_are_done(cluster, s3, tmp_path):
    home = tmp_path / "fault"
    settings = settings_of(home, LATENTVLA_ENGINE="ray")
    (home / "orders" / "refuse-test-01").touch()
    with pytest.raises(DataError, match="test-01 is refused"):
        run(settings, [])
    assert Lake(settings.lake).read("latent_actions").num_rows == 5


def test_a_need_that_no_node_meets_is_told_before_any_work(cluster):
    assert room(ray, Needs(memory_b=0)) == 2
    with pytest.raises(SetupError, match="add a node of that kind"):
        on_ray([], Needs(gpus=1.0))
