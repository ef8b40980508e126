import math

import pytest

from pipelines.registry.gates import decide


@pytest.mark.parametrize(
    ("score", "champion", "scored", "expected", "decision"),
    [
        (0.80, math.nan, 40, 40, "promoted"),
        (0.80, 0.80, 40, 40, "promoted"),
        (0.81, 0.80, 40, 40, "promoted"),
        (0.79, 0.80, 40, 40, "refused"),
        (0.99, 0.80, 39, 40, "refused"),
        (math.nan, math.nan, 40, 40, "refused"),
        (0.99, math.nan, 0, 0, "refused"),
    ],
    ids=["first", "equal", "better", "worse", "incomplete", "no score", "nothing scored"],
)
def test_who_becomes_champion(
    score: float, champion: float, scored: int, expected: int, decision: str
):
    assert decide(score, champion, scored, expected)[0] == decision


def test_the_champion_stays_without_a_new_decision():
    assert decide(0.8, 0.8, 40, 40, same=True)[0] == "kept"
