"""Who can drive: floors without training, trained planners, and what each may see."""
