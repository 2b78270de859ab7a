"""Tuning: whether any setting beats steering off, and which, with few videos."""
