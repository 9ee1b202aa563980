"""Wounds that destroy a part of a lattice for good, and what heals them without labels."""
