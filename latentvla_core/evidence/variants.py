"""The arms of the study, by name: what the scorer of each is told, and what it is there for.

`menu` is the blind host, `seeing` the host that has pictures of its own. `HOST+SOURCE` adds one
source. Every source has its control beside it: a teacher without pictures for a teacher with them,
black pictures for pictures, equal compute for one more phase.
"""

from __future__ import annotations

from dataclasses import dataclass

from latentvla_core.errors import SetupError


@dataclass(frozen=True, slots=True)
class Variant:
    """One arm."""

    isolates: str
    """The question it answers, in one line."""
    told: tuple[str, ...] = ()
    """Sources the scorer is told, of `told.py`."""
    length: int = 1
    """Times the scorer's steps."""
    answers: bool = True
    """False: what it is told in training is missing when it is judged (zeros)."""
    swaps: tuple[tuple[str, str], ...] = ()
    """(source in training, source in its place when it is judged): another model, nothing trained
    for it.
    """
    has_more_labels: bool = False
    """The unlabelled logs have scores too: a ceiling."""
    kind: str = "menu"
    """menu, or a floor: mlp, constant_velocity, human; or best_of_menu, which knows the answer."""


def _menu(isolates: str, *told: str, **others) -> Variant:
    return Variant(isolates, told, **others)


VARIANTS: dict[str, Variant] = {
    "constant_velocity": Variant(
        "floor: straight on at the present speed", kind="constant_velocity"
    ),
    "human": Variant("what the logged driver gets", kind="human"),
    "blind": Variant("one plan from the ego status by imitation", kind="mlp"),
    "best_of_menu": Variant("the best proposal, chosen with the answer known", kind="best_of_menu"),
    "menu": _menu("the blind host: blind proposals, blind scorer"),
    "menu+equal_compute": _menu("does training twice as long do it?", length=2),
    "menu+more_labels": _menu(
        "ceiling: the unlabelled logs are scored as well, still blind", has_more_labels=True
    ),
    "menu+noise": _menu("does more input do it?", "noise"),
    "menu+constant": _menu("refinement without a teacher: told the same everywhere", "constant"),
    "menu+random": _menu("an untrained teacher", "random"),
    "menu+shuffled": _menu("a teacher of other scenes' codes", "shuffled"),
    "menu+blind_teacher": _menu("the control: a teacher without pictures", "blind_teacher"),
    "menu+teacher": _menu("latent actions, decoded to motion", "teacher"),
    "menu+missing": _menu("a teacher that is missing when it counts", "teacher", answers=False),
    "menu+student": _menu("the same from a smaller eye, distilled", "student"),
    "menu+student_alone": _menu("the smaller eye without a teacher", "student_alone"),
    "menu+swapped": _menu(
        "zero-shot: trained with the teacher, driven with the student",
        "teacher",
        swaps=(("teacher", "student"),),
    ),
    "menu+visual": _menu("E_v: hidden states of the teacher's picture branch", "visual"),
    "menu+actions": _menu("E_a: the 192 probabilities, not decoded", "actions"),
    "menu+words": _menu("comparator: one word of 256 for the path", "words"),
    "menu+blind_words": _menu("its control without pictures", "blind_words"),
    "menu+path": _menu("comparator: a path without any code", "path"),
    "menu+blind_path": _menu("its control without pictures", "blind_path"),
    "menu+oracle": _menu("positive control: the codes of the future, decoded", "oracle"),
    "menu+oracle_path": _menu("the most motion can say: the future path itself", "oracle_path"),
    "seeing": _menu("the host: pictures into the scorer", "pictures"),
    "seeing+equal_compute": _menu("the host trained twice as long", "pictures", length=2),
    "seeing+black": _menu("the host with black pictures", "black"),
    "seeing+more_labels": _menu(
        "ceiling: the unlabelled logs are scored as well", "pictures", has_more_labels=True
    ),
    "seeing+noise": _menu("the host and noise", "pictures", "noise"),
    "seeing+blind_teacher": _menu("the host and the blind teacher", "pictures", "blind_teacher"),
    "seeing+teacher": _menu("the host and latent actions", "pictures", "teacher"),
    "seeing+student": _menu("the host and the student", "pictures", "student"),
    "seeing+swapped": _menu(
        "zero-shot: the host trained with the teacher, driven with the student",
        "pictures",
        "teacher",
        swaps=(("teacher", "student"),),
    ),
    "seeing+oracle": _menu("positive control of the host", "pictures", "oracle"),
}

COMPARISONS: tuple[tuple[str, str, str], ...] = (
    ("seeing", "seeing+black", "pictures, against black ones"),
    ("seeing", "menu", "pictures, against the blind host"),
    ("seeing+equal_compute", "seeing", "training the host twice as long"),
    ("menu+teacher", "menu", "the teacher, against the blind host"),
    ("menu+teacher", "menu+blind_teacher", "the teacher, against the teacher without pictures"),
    ("menu+teacher", "menu+noise", "the teacher, against noise"),
    ("menu+teacher", "menu+constant", "the teacher, against the same layers without one"),
    ("menu+teacher", "menu+missing", "the teacher, against its arm when it is missing"),
    ("menu+teacher", "menu+shuffled", "the teacher, against a shuffled teacher"),
    ("menu+student", "menu+blind_teacher", "the student, against the teacher without pictures"),
    ("menu+student", "menu+student_alone", "the student, against one without a teacher"),
    ("menu+teacher", "menu+student", "the teacher, against the student"),
    ("menu+swapped", "menu", "the student in the teacher's place, untrained, against the host"),
    ("menu+swapped", "menu+student", "the same, against a scorer trained with the student"),
    ("menu+words", "menu+blind_words", "one word for the path, against its blind control"),
    ("menu+path", "menu+blind_path", "a path without codes, against its blind control"),
    ("menu+teacher", "menu+path", "codes, against a path without codes"),
    ("menu+teacher", "menu+visual", "decoded motion, against E_v"),
    ("menu+teacher", "menu+actions", "decoded motion, against E_a"),
    ("seeing+teacher", "seeing", "the teacher, for a host that sees"),
    ("seeing+teacher", "seeing+equal_compute", "the same, against equal compute"),
    ("seeing+teacher", "seeing+blind_teacher", "the same, against the teacher without pictures"),
    ("seeing+student", "seeing", "the student, for a host that sees"),
    ("seeing+swapped", "seeing", "the student in the teacher's place, for a host that sees"),
    ("menu+oracle", "menu", "positive control: codes of the future"),
    ("seeing+oracle", "seeing", "positive control, for a host that sees"),
    ("menu+more_labels", "menu", "ceiling: labels for the unlabelled logs, blind"),
    ("seeing+more_labels", "seeing", "ceiling: labels for the unlabelled logs"),
)
"""(a, b, what a − b says)."""


def variant(name: str) -> Variant:
    """The arm of a name. Raises SetupError that lists the names."""
    if name not in VARIANTS:
        raise SetupError(f"variant {name!r} is unknown; use one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
