"""LatentVLA: latent-action learning for driving, from logs to PDM score. Importing this costs
nothing.
"""

import sys

__version__ = "0.1.0"

if sys.version_info < (3, 11):  # noqa: UP036  (a checkout is run without being installed)
    _now = ".".join(map(str, sys.version_info[:2]))
    sys.exit("error: LatentVLA needs Python 3.11 to 3.13, this is " + _now + "; use a newer one")
