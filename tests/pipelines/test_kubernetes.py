"""The files for Kubernetes hold to their schemas and to what the code asks for."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path

import pytest
import yaml
from kubernetes_schema import RAY_CLUSTER, VALUES, strict

from pipelines.engines.ray_cluster import Needs

jsonschema = pytest.importorskip("jsonschema", reason="comes with moto[server]: extra dev")
ROOT = Path(__file__).resolve().parents[2]
CHART = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "values.yaml").read_text())
RAY = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "raycluster.yaml").read_text())
LAUNCHER = CHART["runLauncher"]["config"]["k8sRunLauncher"]


@pytest.mark.parametrize(("values", "schema"), [(CHART, VALUES), (RAY, RAY_CLUSTER)])
def test_the_files_hold_to_their_schemas(values, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(values, schema)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("dagsterDaemon", "runRetrys"), {"enabled": True}),
        (("dagsterDaemon", "runCoordinator", "config", "queuedRunCoordinator"), {"max": 2}),
        (("postgresql", "enabled"), "no"),
        (("runLauncher", "type"), "ProcessLauncher"),
        (("runLauncher", "config", "k8sRunLauncher", "envSecrets"), ["latentvla-secrets"]),
    ],
)
def test_a_misspelt_key_or_a_wrong_kind_of_value_is_refused(place, value):
    broken = copy.deepcopy(CHART)
    inner = broken
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, VALUES)


GIVEN = "set {} to a file of the published chart or resource (docs/operations.md says where)"


@pytest.mark.skipif("DAGSTER_CHART" not in os.environ, reason=GIVEN.format("DAGSTER_CHART"))
def test_the_values_hold_to_the_schema_that_dagsters_chart_brings():
    folder = Path(os.environ["DAGSTER_CHART"])
    schema = json.loads((folder / "values.schema.json").read_text())
    defaults = yaml.safe_load((folder / "values.yaml").read_text())
    kind = jsonschema.validators.validator_for(schema)
    assert [fault.message for fault in kind(schema).iter_errors(over(defaults, CHART))] == []
    wrong = over(defaults, {"runLauncher": {"config": {"k8sRunLauncher": {"envSecrets": ["one"]}}}})
    assert list(kind(schema).iter_errors(wrong))


def over(defaults, values):
    """As helm lays values over a chart's own."""
    if not (isinstance(defaults, dict) and isinstance(values, dict)):
        return values
    names = [*defaults, *(name for name in values if name not in defaults)]
    return {
        name: over(defaults.get(name), values[name]) if name in values else defaults[name]
        for name in names
    }


@pytest.mark.skipif("KUBERAY_CRD" not in os.environ, reason=GIVEN.format("KUBERAY_CRD"))
def test_the_cluster_holds_to_the_resource_that_kuberay_brings():
    resource = yaml.safe_load(Path(os.environ["KUBERAY_CRD"]).read_text())
    (version,) = (
        v for v in resource["spec"]["versions"] if f"ray.io/{v['name']}" == RAY["apiVersion"]
    )
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(RAY, schema)
    wrong = copy.deepcopy(RAY)
    wrong["spec"]["workerGroupSpecs"][0]["minReplica"] = 0
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(wrong, schema)


def test_a_container_as_root_is_refused():
    broken = copy.deepcopy(RAY)
    pod = broken["spec"]["headGroupSpec"]["template"]["spec"]
    pod["securityContext"] = {**pod["securityContext"], "runAsNonRoot": False}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, RAY_CLUSTER)


def snake(value):
    """The chart's words as the launcher's: `runK8sConfig` is run_k8s_config; keys of Kubernetes
    itself stay as they are."""
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", k).lower().replace("_k8s_", "_k8s_"): v
            for k, v in value.items()}  # fmt: skip


def test_the_launcher_takes_its_part_of_the_values():
    dagster_k8s = pytest.importorskip("dagster_k8s", reason="pip install 'latentvla[deploy]'")
    from dagster._config import process_config, resolve_to_config_type

    given = snake(LAUNCHER)
    for kind in ("env_secrets", "env_config_maps"):  # the chart's template hands on their names
        given[kind] = [entry["name"] for entry in given[kind]]
    given["run_k8s_config"] = snake(given["run_k8s_config"])
    given |= {
        "service_account_name": "dagster", "instance_config_map": "dagster-instance",
        "postgres_password_secret": CHART["global"]["postgresqlSecretName"],
        "dagster_home": "/opt/dagster/dagster_home", "job_namespace": "default",
    }  # fmt: skip
    kind = resolve_to_config_type(dagster_k8s.K8sRunLauncher.config_type())
    assert process_config(kind, given).success
    assert not process_config(kind, {**given, "env_secret": ["one"]}).success


def test_one_run_at_a_time_writes_to_a_lake_as_on_one_machine():
    one = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())["concurrency"]["runs"]
    queue = CHART["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    (limit,) = one["tag_concurrency_limits"]
    assert queue["tagConcurrencyLimits"] == [limit]
    assert queue["maxConcurrentRuns"] == one["max_concurrent_runs"]


def test_every_group_of_workers_has_room_for_a_unit():
    for group in RAY["spec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        limits, asked = container["resources"]["limits"], container["resources"]["requests"]
        assert int(asked["cpu"]) >= Needs().cpus
        assert int(limits["memory"].removesuffix("Gi")) << 30 >= 2 * Needs().memory_b
    gpus = [g["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
            for g in RAY["spec"]["workerGroupSpecs"]]  # fmt: skip
    assert gpus == [None, "1"]


def test_the_same_image_ray_and_home_everywhere():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    (deployment,) = CHART["dagster-user-deployments"]["deployments"]
    image = deployment["image"]
    assert f"{image['repository']}:{image['tag']}" == compose["services"]["code"]["image"]
    assert deployment["dagsterApiGrpcArgs"] == ["-m", "pipelines.definitions"]
    home = compose["services"]["code"]["environment"]["LATENTVLA_HOME"]
    places = [m["mountPath"] for m in deployment["volumeMounts"]]
    workers = [g["template"]["spec"]["containers"][0] for g in RAY["spec"]["workerGroupSpecs"]]
    assert home in places
    assert all(home in [m["mountPath"] for m in w["volumeMounts"]] for w in workers)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={RAY['spec']['rayVersion']}" in pins
