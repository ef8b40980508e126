"""Does the open-loop score of a planner say how it drives? Checkpoints of one world, judged twice."""
