"""What every trained model shares: the one loop, exact checkpoints, metric sinks, model folders, decoded pictures."""
