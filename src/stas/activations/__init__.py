"""Recorded activations: statistics, massive dimensions, profiles, pictures."""
