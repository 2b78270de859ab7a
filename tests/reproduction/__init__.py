"""Reproductions, run whole on the bundled model at its smallest."""
