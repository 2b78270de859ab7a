"""What trained the bundled model: `python -m training`. Not part of the installed package."""
