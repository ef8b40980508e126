"""Is the latent action model any good, and what does each of its codes mean?"""

from __future__ import annotations

from latentvla_core.schema import TableSpec, flag, integer, real, text
from latentvla_core.tables.columns import MADE_BY, MODEL

LATENT_QUALITY = TableSpec(
    "latent_quality",
    "one figure of the quality report of one latent action model, against one bound",
    (
        MODEL,
        text("name", "figure, see docs/latent-actions.md"),
        real("value", "measured on the val split; NaN where it has nothing to tell it"),
        real("at_least", "lower bound; NaN = none"),
        real("at_most", "upper bound; NaN = none"),
        flag(
            "required",
            "true: missing the bound stops the line; false: a target, or no bound at all",
        ),
        flag("passed", "the bound holds; true without a bound"),
        text("meaning", "what the figure says"),
        text("cause", "likely reason of a bad value"),
        text("remedy", "what to try, in order"),
        MADE_BY,
    ),
    key=("model_version", "name", "required"),
    partition_by=("model_version",),
)

HISTOGRAM_BINS = 24
_SHAPE = "over equal bins, see atlas.SPEED_EDGES_MPS and HEADING_EDGES_RAD; the outer bins hold the tails"
LATENT_CODES = TableSpec(
    "latent_codes",
    "what one ego code of one latent action model goes with (the atlas); a transition counts once per position with the code",
    (
        MODEL,
        integer("code", "0 … 15"),
        text("name", "suggested name, derived from the columns beside it by rule"),
        integer("uses", "times the code was given"),
        real("share", "of all codes given"),
        real("share_by_position", "of the codes given at each position of a transition", "", (-1,)),
        real(
            "delta_speed_mps",
            "mean change of speed over the transition; NaN when poses are unknown",
            "m/s",
        ),
        real("delta_speed_p10_mps", "10th percentile", "m/s"),
        real("delta_speed_p50_mps", "median", "m/s"),
        real("delta_speed_p90_mps", "90th percentile", "m/s"),
        real(
            "delta_heading_rad", "mean change of heading over the transition, left positive", "rad"
        ),
        real("delta_heading_p10_rad", "10th percentile", "rad"),
        real("delta_heading_p50_rad", "median", "rad"),
        real("delta_heading_p90_rad", "90th percentile", "rad"),
        real("speed_p50_mps", "median speed at the start of the transition", "m/s"),
        integer("delta_speed_histogram", f"transitions {_SHAPE}", "", (HISTOGRAM_BINS,)),
        integer("delta_heading_histogram", f"transitions {_SHAPE}", "", (HISTOGRAM_BINS,)),
        text(
            "contexts",
            "conditions of the scene that are more frequent with the code, most telling first",
            (-1,),
        ),
        real("context_lifts", "frequency with the code / frequency overall, of each", "", (-1,)),
        integer("neighbours", "the other codes, nearest in the codebook first", "", (-1,)),
        real("neighbour_distances", "Euclidean, in the quantiser's own space", "", (-1,)),
        MADE_BY,
    ),
    key=("model_version", "code"),
    partition_by=("model_version",),
)
