"""What can be seen of a run: events, the run folder, gauges, text quality.  Only `monitors.torch_memory` imports torch."""
