"""How a plan is driven: LQR tracker, kinematic bicycle, comfort."""
