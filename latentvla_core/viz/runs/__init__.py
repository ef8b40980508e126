"""Closed-loop runs as pages of the browser: read from the lake or from a folder that `latentvla
drive` wrote, with the road they drove on and what their cameras saw.
"""
