"""Complete named runs: `debug`, `mini`, `single_gpu`, `paper`. One schema, four sizes; no second
place for defaults.

Each function picks the size of every room's configuration and nothing else. Configurations are
imported where they are
used: a recipe costs torch's import only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentvla_core.errors import SetupError
from latentvla_core.pdms.metrics import METRIC_VERSIONS, Metric
from latentvla_core.recipe_file import changed, is_recipe_file, read_changes
from latentvla_core.types import CODEBOOK_SIZE, MOST_INT8_CODES, NUM_ACTION_TOKENS

if TYPE_CHECKING:
    from latentvla_core.closed_loop.config import ClosedLoopConfig, ClosedLoopGate
    from latentvla_core.data.filters import SceneFilter
    from latentvla_core.distill.config import StudentConfig
    from latentvla_core.evidence.config import EvidenceConfig
    from latentvla_core.latent.config import LatentActionConfig
    from latentvla_core.latent.quality import QualityGate
    from latentvla_core.planner.baselines import EgoStatusConfig
    from latentvla_core.planner.config import PlannerTrainConfig
    from latentvla_core.planner.fusion import FusionConfig
    from latentvla_core.planner.hosts.ipad_config import IpadConfig
    from latentvla_core.planner.hosts.transfuser import TransfuserConfig
    from latentvla_core.rl.config import RlConfig
    from latentvla_core.vlm.config import VlmConfig
    from latentvla_core.world.write import WorldConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannerRecipe:
    """The hosts, what is fused into them, and how they are trained."""

    transfuser: TransfuserConfig
    ipad: IpadConfig
    fusion: FusionConfig
    train: PlannerTrainConfig
    others: Mapping[str, Any] = field(default_factory=dict)
    """Configurations of the hosts that are not published ones (planner/hosts/registry.py)."""

    def host(self, name: str) -> Any:
        """Configuration of a host by name. Raises SetupError for one that the recipe lacks."""
        known = {"transfuser": self.transfuser, "ipad": self.ipad, **self.others}
        if name not in known:
            raise SetupError(f"the recipe has no host {name!r}; it has {', '.join(known)}")
        return known[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """Which logs of the train split a stage may learn from, as shares of a hash of their names.

    Splits val and test play their own roles in every recipe: val decides (early stops, gates,
    displacement of a new model), test is scored and chooses nothing.
    """

    unlabelled: tuple[float, float] = (0.0, 1.0)
    """Read by latent model, VLM and student: pictures and poses; boxes where the latent model wants
    them.
    """
    labelled: tuple[float, float] = (0.0, 1.0)
    """Read by planners: maps, boxes, simulated scores."""

    def __post_init__(self) -> None:
        for name in ("unlabelled", "labelled"):
            low, high = getattr(self, name)
            if not 0.0 <= low < high <= 1.0:
                raise ValueError(f"roles.{name} is {low} to {high}; needs 0 <= low < high <= 1")

    @property
    def are_apart(self) -> bool:
        """Whether no log plays both: only then what a VLM says of a planner's training scenes is as
        good as it will be of new ones.
        """
        (a, b), (c, d) = self.unlabelled, self.labelled
        return b <= c or d <= a


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One complete run. A stage's fingerprint contains the sections it reads, so changing one
    redoes what depends on it.
    """

    name: str
    world: WorldConfig
    """The embedded world; not read when the logs are yours."""
    scene_filter: SceneFilter
    """Windows, unless the source names a filter of its own."""
    latent: LatentActionConfig
    latent_gate: QualityGate
    """What the latent action model must reach before it may label."""
    vlm: VlmConfig
    student: StudentConfig
    ego_status: EgoStatusConfig
    planner: PlannerRecipe
    rl: RlConfig
    """What hosts learn from the PDM score after imitation: job `rl`."""
    evidence: EvidenceConfig
    """The study of what pictures and latent actions are worth: job `evidence`."""
    closed_loop: ClosedLoopConfig
    """What planners and floors drive: job `closed_loop`."""
    closed_loop_gate: ClosedLoopGate
    """Whether a candidate for `champion` must not fall in closed loop."""
    roles: Roles = field(default_factory=Roles)
    """Which logs teach whom; the demo's few logs teach everybody."""
    metrics: tuple[Metric, ...] = ("pdms", "epdms")
    """What plans are scored by; the first one decides about promotions and which scenes are worst."""
    latency_budget_ms: float = 0.0
    """A registered model that takes longer for a scene, on the machine that registers it, becomes
    no champion. 0: no budget.
    """
    label_batch: int = 64
    """Scenes per batch when labelling; changes speed, not results. 64 stay in the cache of a core."""
    feature_batch: int = 64
    """Scenes per batch when VLM or student predict; changes speed, not results."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRIC_VERSIONS]
        if unknown or not self.metrics:
            raise ValueError(
                f"metrics is {self.metrics}; needs at least one of {', '.join(METRIC_VERSIONS)}"
            )
        _require_words_for(self.name, self.latent)
        _require_frames_for(self.name, self.latent, self.scene_filter)


def _require_words_for(recipe: str, latent: LatentActionConfig) -> None:
    """The latent model's label is the VLM's answer: both must speak of the same tokens. Raises
    SetupError if not.
    """
    if latent.num_tokens != NUM_ACTION_TOKENS:
        raise SetupError(
            f"recipe {recipe}: num_transitions {latent.num_transitions} × codes_per_transition {latent.codes_per_transition}"
            f" make {latent.num_tokens} tokens, the VLM answers {NUM_ACTION_TOKENS}; change one of the two"
        )
    if latent.ego.kind == "continuous" or latent.ego.codebook_size != CODEBOOK_SIZE:
        raise SetupError(
            f"recipe {recipe}: ego codes are {latent.ego.kind}, {latent.ego.codebook_size} of them; the VLM has words for "
            f"{CODEBOOK_SIZE}: other codebooks are comparators (benchmarks/latent_ablations.py) and no part of a recipe"
        )
    if latent.environment.codebook_size > MOST_INT8_CODES:
        raise SetupError(
            f"recipe {recipe}: environment.codebook_size is {latent.environment.codebook_size}; table latent_actions holds codes up "
            f"to {MOST_INT8_CODES - 1}"
        )


def _require_frames_for(recipe: str, latent: LatentActionConfig, window: SceneFilter) -> None:
    """Every scene must show all transitions of its label. Raises SetupError if not."""
    needed = latent.num_transitions * latent.gap_frames
    if needed > window.num_future_frames:
        raise SetupError(
            f"recipe {recipe}: {latent.num_transitions} transitions of gap_frames {latent.gap_frames} need {needed} future frames, a scene"
            f" has {window.num_future_frames}; use a shorter gap, or a scene_filter with longer windows"
        )


def _compose(name: str, size: str, *, logs: int, seconds: float, **own: Any) -> Recipe:
    """A recipe whose every section is the room's configuration of that size."""
    from latentvla_core.closed_loop.config import ClosedLoopConfig, ClosedLoopGate
    from latentvla_core.data.filters import SceneFilter
    from latentvla_core.distill.config import StudentConfig
    from latentvla_core.evidence.config import EvidenceConfig
    from latentvla_core.latent.config import LatentActionConfig
    from latentvla_core.latent.quality import QualityGate
    from latentvla_core.planner.baselines import EgoStatusConfig
    from latentvla_core.planner.config import PlannerTrainConfig
    from latentvla_core.planner.fusion import FusionConfig
    from latentvla_core.planner.hosts.ipad_config import IpadConfig
    from latentvla_core.planner.hosts.registry import MODULES, host_of
    from latentvla_core.planner.hosts.transfuser import TransfuserConfig
    from latentvla_core.rl.config import RlConfig
    from latentvla_core.vlm.config import VlmConfig
    from latentvla_core.world.write import WorldConfig

    return Recipe(
        name=name,
        world=WorldConfig.for_logs(logs, seed=0, seconds_per_log=seconds),
        # navtrain and navtest: 4 + 10 frames, a window at every frame (navsim_format.md §2)
        scene_filter=SceneFilter(
            num_history_frames=4, num_future_frames=10, frame_interval=1, has_route=True
        ),
        latent=getattr(LatentActionConfig, size)(),
        latent_gate=getattr(QualityGate, size)(),
        vlm=getattr(VlmConfig, size)(),
        student=getattr(StudentConfig, size)(),
        ego_status=getattr(EgoStatusConfig, size)(),
        planner=PlannerRecipe(
            transfuser=getattr(TransfuserConfig, size)(),
            ipad=getattr(IpadConfig, size)(),
            fusion=getattr(FusionConfig, size)(),
            train=getattr(PlannerTrainConfig, size)(),
            others={
                host: getattr(host_of(host).config, size)()
                for host in MODULES
                if host not in ("transfuser", "ipad")
            },
        ),
        rl=getattr(RlConfig, size)(),
        evidence=getattr(EvidenceConfig, size)(),
        closed_loop=getattr(ClosedLoopConfig, size)(),
        closed_loop_gate=ClosedLoopGate(),
        **own,
    )


def debug() -> Recipe:
    """Two steps a stage, seconds: the whole line in a test."""
    return _compose("debug", "debug", logs=4, seconds=9.0)


def mini() -> Recipe:
    """The demo: minutes on two cores, small but the same classes."""
    return _compose("mini", "mini", logs=11, seconds=20.0, latency_budget_ms=2000.0)


def single_gpu() -> Recipe:
    """One GPU of 24 to 80 GB, one to two days."""
    return _compose("single_gpu", "single_gpu", logs=64, seconds=20.0)


def paper() -> Recipe:
    """The paper's sizes: Qwen2.5-VL-3B, DINOv2-B features, full hosts, 50 M student; eight GPUs."""
    return _compose("paper", "paper", logs=64, seconds=20.0)


RECIPES: dict[str, Callable[[], Recipe]] = {f.__name__: f for f in (debug, mini, single_gpu, paper)}


def recipe_named(name: str, weights: Weights | None = None) -> Recipe:
    """The recipe of that name, or of a YAML file, with pretrained weights where it wants them.

    Raises SetupError that lists the names, or the faults of the file.
    """
    base, changes = read_changes(name) if is_recipe_file(name) else (name, None)
    if base not in RECIPES:
        raise SetupError(
            f"recipe {base!r} is unknown; use one of {', '.join(RECIPES)}, or a YAML file (examples/long.yaml)"
        )
    recipe = RECIPES[base]() if changes is None else changed(RECIPES[base](), changes, name)
    return with_weights(recipe, weights or Weights())


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Local folders of published weights, for the recipes that start from them; nothing is
    downloaded.
    """

    qwen: str = ""
    """Qwen2.5-VL checkpoint: config.json, *.safetensors, tokenizer files."""
    dinov2: str = ""
    """DINOv2 backbone saved by transformers."""


def with_weights(recipe: Recipe, weights: Weights) -> Recipe:
    """The recipe reading these folders. Recipes that build their networks from configuration stay
    as they are.
    """
    vlm, latent = recipe.vlm, recipe.latent
    if weights.qwen and vlm.backend == "pretrained":
        vlm = replace(vlm, pretrained_path=weights.qwen)
    if weights.dinov2 and latent.features.kind == "dinov2":
        latent = replace(latent, features=replace(latent.features, backbone=weights.dinov2))
    return replace(recipe, vlm=vlm, latent=latent)


def require_weights(recipe: Recipe, sections: Iterable[str]) -> None:
    """Raises SetupError, before any work, when sections that will be read want published weights
    that are not there.
    """
    wanted = {
        "latent": (recipe.latent.features.kind == "dinov2", recipe.latent.features.backbone,
                   "DINOv2", "LATENTVLA_DINOV2"),
        "vlm": (recipe.vlm.backend == "pretrained", recipe.vlm.pretrained_path,
                "Qwen2.5-VL", "LATENTVLA_QWEN"),
    }  # fmt: skip
    faults = [
        f"the weights of {what} are {_not_there(place)}; set {variable} to their local folder"
        for section, (needed, place, what, variable) in wanted.items()
        if section in set(sections) and needed and _not_there(place)
    ]
    if faults:
        raise SetupError(
            f"recipe {recipe.name}: {'; '.join(faults)} (docs/vlm.md says how to get them), or use"
            " recipe mini, which needs none"
        )


def _not_there(folder: str) -> str:
    if not folder:
        return "not named"
    found = Path(folder).expanduser() / "config.json"
    return "" if found.is_file() else f"not in {folder}, which has no config.json"
