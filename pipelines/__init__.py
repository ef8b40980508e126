"""The Dagster code location. Importing it costs nothing; it only tells OpenMP to wait without
spinning.

A second spinning thread on a busy machine made a training step cost ten times its CPU time
(docs/results.md).
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which is later
