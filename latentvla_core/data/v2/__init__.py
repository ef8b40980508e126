"""Files of NAVSIM v2: synthetic second-stage scenes, and submissions of both versions."""
