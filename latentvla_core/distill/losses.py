"""What the student is asked to match: the teacher's distribution, the labels, and the teacher's
states.

B scenes, 12 positions, D width. The teacher's rows were recorded behind its own greedy tokens.
Where the student reads other tokens before a position (labels), the teacher's distribution there is
unknown, so the terms that need it count only the positions whose earlier tokens agree
(`same_before`, `same_with`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.network import StudentOutput


def token_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(..., 16) logits of both → (...) T² · KL(teacher ‖ student); the teacher gets no gradient."""
    target = (teacher.detach().float() / temperature).log_softmax(-1)
    own = (student.float() / temperature).log_softmax(-1)
    return temperature**2 * (target.exp() * (target - own)).sum(-1)


def state_distance(student: Tensor, teacher: Tensor, smooth_l1_weight: float) -> Tensor:
    """(..., D) states of both → (...) 1 − cosine + weight · smooth L1; the teacher gets no
    gradient.
    """
    teacher = teacher.detach().float()
    angle = 1 - functional.cosine_similarity(student.float(), teacher, dim=-1)
    return angle + smooth_l1_weight * functional.smooth_l1_loss(
        student.float(), teacher, reduction="none"
    ).mean(-1)


def agreement(read: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 12) tokens of both → (B, 12) whether all earlier tokens agree, and whether this one does
    as well.
    """
    same_with = (read == teacher).cumprod(1).bool()
    same_before = functional.pad(same_with[:, :-1], (1, 0), value=True)
    return same_before, same_with


def distillation_loss(
    output: StudentOutput,
    *,
    teacher_codes: Tensor,
    teacher_logits: Tensor,
    teacher_visual: Tensor,
    teacher_action: Tensor,
    labels: Tensor,
    config: StudentConfig,
) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of all terms, and each of them. Labels are (B, 12), -1 where a scene has none."""
    same_before, same_with = agreement(output.codes, teacher_codes)
    if config.decoding == "parallel":  # nothing was read, so nothing can differ
        same_before = same_with = torch.ones_like(same_before)
    smooth = config.smooth_l1_weight
    terms = {
        "kl": masked_mean(token_kl(output.logits, teacher_logits, config.temperature), same_before),
        "label": _label_loss(output.logits, labels),
        "action": masked_mean(state_distance(output.action, teacher_action, smooth), same_with),
        "visual": state_distance(output.visual, teacher_visual, smooth).mean(),
    }
    weights = {
        "kl": config.kl_weight,
        "label": config.label_weight,
        "action": config.action_weight,
        "visual": config.visual_weight,
    }
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return total, {name: float(term.detach()) for name, term in terms.items()}


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean where the mask is True; 0 when it is True nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy where there are labels; 0 when the batch has none."""
    each = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum"
    )
    return each / (labels >= 0).sum().clamp(min=1)
