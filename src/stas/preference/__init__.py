"""What people prefer: blind comparison of a run's videos, and what the votes say."""
