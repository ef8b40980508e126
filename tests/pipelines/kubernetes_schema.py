"""What the values may say: the keys of Dagster's chart and of KubeRay's resource that we use, in our
own words. A key that is misspelt or lies at another place is refused.
"""

from __future__ import annotations

from typing import Any

TEXT, COUNT, YES_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NAMES = {"type": "object", "additionalProperties": TEXT}


def keys(*required: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": fields, "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip


def many(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


AMOUNT = {"type": "string", "pattern": r"^[0-9]+(m|Gi|Mi)?$"}
AMOUNTS = {"type": "object", "additionalProperties": AMOUNT}
RESOURCES = keys(requests=AMOUNTS, limits=AMOUNTS)
IMAGE = keys(
    "repository", "tag", "pullPolicy", repository=TEXT, tag=TEXT,
    pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
)  # fmt: skip
NAMED = many(keys("name", name=TEXT))
USER = keys(
    "runAsNonRoot", runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT, runAsNonRoot={"const": True}
)
CLAIM = keys("claimName", claimName=TEXT, readOnly=YES_NO)
VOLUMES = many(keys("name", "persistentVolumeClaim", name=TEXT, persistentVolumeClaim=CLAIM))
MOUNTS = many(keys("name", "mountPath", name=TEXT, mountPath=TEXT, readOnly=YES_NO))
TOLERATIONS = many(
    keys("key", key=TEXT, operator={"enum": ["Exists", "Equal"]}, effect={"enum": ["NoSchedule"]})
)
SWITCH = {"enabled": YES_NO}
DEPLOYMENT = keys(
    "name", "image", "dagsterApiGrpcArgs", "port", name=TEXT, image=IMAGE,
    dagsterApiGrpcArgs=many(TEXT), port=COUNT, envSecrets=NAMED, envConfigMaps=NAMED,
    volumes=VOLUMES, volumeMounts=MOUNTS, podSecurityContext=USER, resources=RESOURCES,
    includeConfigInLaunchedRuns=keys(**SWITCH),
)  # fmt: skip
SERVICE = keys(type={"enum": ["ClusterIP", "LoadBalancer", "NodePort"]}, port=COUNT)
LIMIT = keys(
    "key", "limit", key=TEXT, limit=COUNT,
    value={"anyOf": [TEXT, keys(applyLimitPerUniqueValue=YES_NO)]},
)  # fmt: skip
QUEUE = keys("maxConcurrentRuns", maxConcurrentRuns=COUNT, tagConcurrencyLimits=many(LIMIT))
LAUNCHER = keys(
    "envSecrets", "envConfigMaps", imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    envSecrets=NAMED, envConfigMaps=NAMED, failPodOnRunFailure=YES_NO, resources=RESOURCES,
    runK8sConfig={"type": "object"},
)  # fmt: skip
VALUES = keys(
    "dagster-user-deployments", "runLauncher", "postgresql",
    **{
        "global": keys(postgresqlSecretName=TEXT),
        "generatePostgresqlPasswordSecret": YES_NO,
        "postgresql": keys(
            "enabled", "postgresqlHost", enabled=YES_NO, postgresqlHost=TEXT,
            postgresqlUsername=TEXT, postgresqlDatabase=TEXT, service=keys(port=COUNT),
        ),
        "dagster-user-deployments": keys(
            "deployments", enableSubchart=YES_NO, deployments=many(DEPLOYMENT), **SWITCH
        ),
        "dagsterWebserver": keys(
            replicaCount=COUNT, image=IMAGE, service=SERVICE, envSecrets=NAMED, envConfigMaps=NAMED
        ),
        "dagsterDaemon": keys(
            image=IMAGE, envSecrets=NAMED, envConfigMaps=NAMED, **SWITCH,
            runCoordinator=keys(
                "type", type={"const": "QueuedRunCoordinator"},
                config=keys(queuedRunCoordinator=QUEUE), **SWITCH,
            ),
            runMonitoring=keys(
                startTimeoutSeconds=COUNT, maxResumeRunAttempts=COUNT, pollIntervalSeconds=COUNT,
                **SWITCH,
            ),
            runRetries=keys(maxRetries=COUNT, retryOnAssetOrOpFailure=YES_NO, **SWITCH),
        ),
        "runLauncher": keys(
            "type", "config", type={"const": "K8sRunLauncher"},
            config=keys("k8sRunLauncher", k8sRunLauncher=LAUNCHER),
        ),
        "computeLogManager": keys(
            "type", type={"const": "S3ComputeLogManager"},
            config=keys(s3ComputeLogManager=keys("bucket", bucket=TEXT, prefix=TEXT)),
        ),
    },
)  # fmt: skip

SOURCE = keys(configMapRef=keys("name", name=TEXT), secretRef=keys("name", name=TEXT))
CONTAINER = keys(
    "name", "image", "resources", name=TEXT, image=TEXT, resources=RESOURCES,
    ports=many(keys("containerPort", containerPort=COUNT, name=TEXT)), envFrom=many(SOURCE),
    volumeMounts=MOUNTS,
)  # fmt: skip
POD = keys(
    "spec",
    spec=keys(
        "containers", containers=many(CONTAINER), volumes=VOLUMES, securityContext=USER,
        tolerations=TOLERATIONS,
    ),
)  # fmt: skip
HEAD = keys("rayStartParams", "template", rayStartParams=NAMES, template=POD)
GROUP = keys(
    "groupName", "minReplicas", "maxReplicas", "rayStartParams", "template", groupName=TEXT,
    replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=NAMES, template=POD,
)  # fmt: skip
RAY_CLUSTER = keys(
    "apiVersion", "kind", "metadata", "spec", apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"}, metadata=keys("name", name=TEXT),
    spec=keys(
        "rayVersion", "headGroupSpec", "workerGroupSpecs", rayVersion=TEXT,
        enableInTreeAutoscaling=YES_NO, autoscalerOptions=keys(idleTimeoutSeconds=COUNT),
        headGroupSpec=HEAD, workerGroupSpecs=many(GROUP),
    ),
)  # fmt: skip


def strict(schema: Any) -> Any:
    """A published CRD's schema that also refuses keys which the server would drop silently."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    made = {name: strict(part) for name, part in schema.items()}
    open_ended = {"x-kubernetes-preserve-unknown-fields", "additionalProperties"} & set(schema)
    if schema.get("type") == "object" and "properties" in schema and not open_ended:
        made["additionalProperties"] = False
    return made
