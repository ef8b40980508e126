"""evidence: the study of what pictures and latent actions are worth, every arm an asset by name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from latentvla_core.errors import SetupError
from latentvla_core.evidence.variants import VARIANTS
from latentvla_core.lake.store import Lake
from latentvla_core.types import SceneRecord
from pipelines.checks import Verdict
from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext
from pipelines.steps.lineage import digest, share_of
from pipelines.steps.reading import worlds_of

if TYPE_CHECKING:
    from latentvla_core.evidence.config import EvidenceConfig
    from latentvla_core.evidence.folder import StudyFolder
    from latentvla_core.evidence.prepare import Material

TEACHERS = "evidence_teachers"
INPUTS = ("scenes", "scene_worlds")


def asset_name(variant: str) -> str:
    """Name of an arm's asset: `menu+teacher` → `evidence_menu_teacher`."""
    return f"evidence_{variant.replace('+', '_')}"


def material_of(context: StageContext) -> Material:
    """Scenes of all roles from the lake, with their worlds. Raises SetupError naming an empty role."""
    from latentvla_core.evidence.prepare import gather

    config: EvidenceConfig = context.recipe.evidence
    by_split: dict[str, list[SceneRecord]] = {}
    roles: dict[str, list[SceneRecord]] = {}
    for role, part in config.roles.items():
        if part.split not in by_split:
            by_split[part.split] = context.records(part.split)
        found = by_split[part.split]
        roles[role] = [r for r in found if part.low <= share_of(r.log_name) < part.high]
    if empty := [role for role, records in roles.items() if not records]:
        raise SetupError(
            f"role {empty[0]} of the study has no scenes in {context.settings.lake} "
            f"({config.roles[empty[0]]}); use more logs (examples/evidence.yaml) or other parts"
        )
    worlds = {role: worlds_of(context, records) for role, records in roles.items()}
    return gather(roles, worlds)


def study_of(context: StageContext) -> StudyFolder:
    """What arms share, in a folder named after the study's configuration and inputs."""
    from latentvla_core.evidence.folder import StudyFolder

    inputs = [
        context.ledger.made_by(name, partition)
        for name in INPUTS
        for partition in context.settings.partitions
    ]
    path = context.settings.home / "evidence" / digest(context.recipe.evidence, inputs)
    return StudyFolder(path, context.recipe.evidence, partial(material_of, context))


@declare.table(deps=INPUTS, group="evidence", recipe=("evidence",), kinds=("pytorch",), heavy=True)
def evidence_teachers(context: StageContext) -> Output:
    """Teachers and students of the study on logs that nobody saw: loss and accuracy against their
    blind branch and the marginal. A teacher is handed on only if it beats its blind branch.
    """
    study, seeds = study_of(context), context.recipe.evidence.study.seeds
    rows = [row for seed in context.track(TEACHERS, seeds) for row in study.teachers(seed)]
    return Output(rows, metadata={"folder": str(study.path)})


def declare_arm(variant: str, isolates: str) -> None:
    """The asset of one arm; its rows replace that arm's and no other's."""

    @declare.table(
        name=asset_name(variant),
        table="evidence_runs",
        doc=f"Arm {variant} of the study: {isolates}. Means by seed, log and situation.",
        deps=(*INPUTS, TEACHERS),
        group="evidence",
        recipe=("evidence",),
        kinds=("pytorch", "deltalake"),
    )
    def run(context: StageContext) -> Output:
        rows = study_of(context).run(variant)
        note = {} if rows else {"note": "a source of this arm was refused; see evidence_teachers"}
        return Output(rows, groups=(variant,), metadata=note)


for _name, _arm in VARIANTS.items():
    declare_arm(_name, _arm.isolates)


def positive_control(lake: Lake) -> Verdict:
    """One fault per host and number of labelled logs for which codes of the future are no help."""
    from latentvla_core.evidence.summary import positive_controls

    rows = lake.rows("evidence_runs", {"variant": list(VARIANTS)})
    return Verdict(len(rows), [told for held, told in positive_controls(rows) if not held])


@declare.table(
    deps=(TEACHERS, *map(asset_name, VARIANTS)),
    group="evidence",
    checks={"positive_control": positive_control},
    kinds=("deltalake",),
)
def evidence_summary(context: StageContext) -> Output:
    """The study's table and page, from the rows of its arms: whether host < student ≤ teacher holds
    comes first, and no arm is ranked.
    """
    from latentvla_core.evidence.summary import paragraph, table
    from latentvla_core.viz.evidence_page import evidence_page
    from latentvla_core.viz.html import write_page

    rows, quality = context.lake.rows("evidence_runs"), context.lake.rows(TEACHERS)
    version = digest(*sorted({row["made_by"] for row in [*rows, *quality]}))
    page = write_page(context.page("evidence", version), evidence_page(rows, quality))
    roles = sorted({row["role"] for row in rows})
    found = [row for role in roles for row in table(rows, role)]
    return Output(found, metadata={"page": page, "verdict": paragraph(rows, quality)})
