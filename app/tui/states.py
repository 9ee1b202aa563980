"""The colours of a run's state.  Imports nothing, so that the home screen is quick."""

STATE_STYLES = {
    "running": "green",
    "paused": "yellow",
    "failed": "bold red",
    "crashed": "bold red",
    "copied": "yellow",
    "stale": "yellow",
}
