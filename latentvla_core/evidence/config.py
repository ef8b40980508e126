"""The study's one configuration, in two sizes: `debug` for tests, `mini` for figures."""

from __future__ import annotations

from dataclasses import dataclass, field

from latentvla_core.encoders.encoder import EncoderConfig
from latentvla_core.evidence.eye import EyeConfig
from latentvla_core.evidence.menu import MenuConfig
from latentvla_core.evidence.study import StudyConfig
from latentvla_core.evidence.teacher import TeacherConfig
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.training.config import with_training


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Which logs of the lake play a role: those of a split whose name hashes into a share."""

    split: str
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ValueError(f"part {self.low} to {self.high}; need 0 <= low < high <= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceConfig:
    """Who plays which role, what is seen, and what is compared."""

    unlabelled: Part = field(default_factory=lambda: Part(split="train", high=0.5))
    """Pictures and poses only: latent model, teachers, students."""
    labelled: Part = field(default_factory=lambda: Part(split="train", low=0.5))
    """Proposals and scorers."""
    val: Part = field(default_factory=lambda: Part(split="val"))
    """Whether a teacher is handed on."""
    test: Part = field(default_factory=lambda: Part(split="test"))
    """Opened once per published table."""
    test_towns: Part | None = None
    """Logs of towns that nobody trained in; None = there are none."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """What looks at pictures."""
    eye: EyeConfig = field(default_factory=EyeConfig)
    """How much is kept of what it sees."""
    latent: LatentActionConfig = field(
        default_factory=lambda: LatentActionConfig.long(
            steps=900, agent_weight=0.0, quality_every=0
        )
    )
    """Trained on `unlabelled` alone, without boxes; its seed is the study's."""
    study: StudyConfig = field(default_factory=StudyConfig)
    """Arms, numbers of labelled logs (0 = all there are), seeds."""

    @property
    def roles(self) -> dict[str, Part]:
        """Role → its part, of the roles that are played."""
        parts = {name: getattr(self, name) for name in ("unlabelled", "labelled", "val", "test")}
        return parts | ({"test_towns": self.test_towns} if self.test_towns else {})

    @classmethod
    def debug(cls) -> EvidenceConfig:
        """Two steps of everything on all logs there are: tests."""
        short = {"steps": 2, "batch_size": 8, "warmup_steps": 0}
        menu = MenuConfig(proposals=3, proposer_width=8, proposer_steps=2, width=8)
        teacher = TeacherConfig(width=8, eye_width=4, blind_steps=2)
        return cls(
            eye=EyeConfig(whole=6, middle=4, fit_pictures=12),
            latent=LatentActionConfig.debug(),
            study=StudyConfig(
                labelled=(0,),
                seeds=(0,),
                menu=with_training(menu, **short),
                teacher=with_training(teacher, **short),
            ),
        )

    @classmethod
    def mini(cls) -> EvidenceConfig:
        """Full sizes on the logs there are. The demo's eleven prove nothing: see
        examples/evidence.yaml.
        """
        return cls(study=StudyConfig(labelled=(0,)))

    @classmethod
    def single_gpu(cls) -> EvidenceConfig:
        return cls.mini()

    @classmethod
    def paper(cls) -> EvidenceConfig:
        return cls.mini()
