"""How much of each known pitfall is too much, and what to do about it (docs/design/rl.md)."""

from __future__ import annotations

from collections.abc import Mapping

LIMITS: Mapping[str, tuple[float, str]] = {
    "reversing": (0.05, "plans drive backwards: progress may be hacked; raise imitation"),
    "jumping": (0.05, "the last pose jumps: progress may be hacked; raise imitation"),
    "dead_groups": (0.5, "most groups have one reward and teach nothing; raise noise or samples"),
    "collapsed": (0.5, "most scenes are worth nothing: the policy has collapsed; lower the rate"),
    "easy_share": (0.75, "easy scenes carry the gradient; set divide_by_std false"),
}
"""Figure → what is too much, and what to do about it."""
LEAST_KEPT = 0.5
"""Extended comfort or the score below this share of what it was before has collapsed."""
KEPT = ("extended_comfort", "score")


def is_beyond(name: str, now: float, then: float | None = None) -> bool:
    """Whether a figure is beyond its limit; what was so before is no news, and NaN is unknown."""
    if name in KEPT:
        return then is not None and now < LEAST_KEPT * then
    if name not in LIMITS:
        return False
    return now > max(LIMITS[name][0], then if then is not None and then == then else 0.0)


def warnings_of(
    figures: Mapping[str, float], before: Mapping[str, float] | None = None
) -> list[str]:
    """One sentence per figure that is beyond its limit; [] when nothing is known to be wrong.

    Args:
        before: the same figures before the training. Extended comfort and the score are held
            against them.
    """
    then = before or {}
    found = [
        f"{name} is {figures[name]:.2f}, above {limit:.2f}: {text}"
        for name, (limit, text) in LIMITS.items()
        if is_beyond(name, figures.get(name, 0.0), then.get(name))
    ]
    return found + [
        f"{name} fell from {then[name]:.2f} to {figures[name]:.2f}: collapsed; raise imitation"
        for name in KEPT
        if name in figures and is_beyond(name, figures[name], then.get(name))
    ]
