"""The codebook at a glance: how often each code is used, per transition."""

from __future__ import annotations

import numpy as np

from latentvla_core.types import Array
from latentvla_core.viz.canvas import INK, sheet

DARKEST = (0.12, 0.31, 0.61)  # of the first transition


def codebook_histogram(codes: Array, num_transitions: int, num_codes: int = 16) -> bytes:
    """(N, 12) codes, time-major → PNG: share of each code, stacked over the transitions."""
    codes = np.asarray(codes).reshape(len(codes), num_transitions, -1)
    counts = [np.bincount(codes[:, t].ravel(), minlength=num_codes) for t in range(num_transitions)]
    share, shades = np.stack(counts) / max(codes.size, 1), np.linspace(0.0, 0.65, num_transitions)
    used, perplexity = usage(codes, num_codes)
    with sheet(6.0, 2.6) as page:
        axes = page.figure.add_subplot()
        base = np.zeros(num_codes)
        for t, (row, shade) in enumerate(zip(share, shades, strict=True)):
            colour = [part + (1 - part) * shade for part in DARKEST]
            axes.bar(range(num_codes), row, bottom=base, color=colour, label=f"transition {t + 1}")
            base += row
        axes.axhline(1 / num_codes, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xticks=range(num_codes), xlabel="ego code", ylabel="share")
        axes.set_title(
            f"{used} of {num_codes} codes used, perplexity {perplexity:.1f}, {codes.size} codes",
            fontsize=10,
        )
        axes.set_ylim(0, 1.25 * max(base.max(), 1e-9))  # the legend above every bar
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper right")
        axes.spines[["top", "right"]].set_visible(False)
    return page.png


def usage(codes: Array, num_codes: int = 16) -> tuple[int, float]:
    """Codes with a share above 0.2 %, and the perplexity of the distribution (latentvla.md §2.8)."""
    counts = np.bincount(np.asarray(codes).ravel(), minlength=num_codes)
    share = counts / max(counts.sum(), 1)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    return int((share > 0.002).sum()), float(np.exp(entropy))
