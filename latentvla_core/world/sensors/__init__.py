"""What the ego sees: calibrated cameras and a lidar."""
