"""Everything that can be observed of a run: events, the run folder, gauges, leaks, text quality.

Of these modules, only `monitors.torch_memory` imports torch.
"""
