"""Plasticity: how connections change with the activity of the cells they join."""
