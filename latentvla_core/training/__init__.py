"""What every trained model shares: the one loop, exact checkpoints, metric sinks, model folders,
decoded pictures.
"""

from collections.abc import Mapping
from typing import Any

FREE = ("checkpoint_every", "log_every", "quality_every")
"""Settings that change what is kept and told of a training, and nothing of its result: a resumed
run may change them, and no model is trained anew for them.
"""


def without_free(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a configuration at any depth, less those that change nothing of the result."""
    return {
        name: without_free(value) if isinstance(value, Mapping) else value
        for name, value in fields.items()
        if name not in FREE
    }
