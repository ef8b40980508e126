"""PDM-Closed, the rule-based planner that progress is measured against."""
