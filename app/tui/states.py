"""How a run's state is coloured, wherever it stands.  Imports nothing: the home screen is drawn before runs are read."""

STATE_STYLES = {"running": "green", "paused": "yellow", "failed": "bold red", "crashed": "bold red", "stale": "yellow"}
