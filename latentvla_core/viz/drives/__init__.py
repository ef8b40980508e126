"""`latentvla drive`: closed-loop runs, their table and their page."""
