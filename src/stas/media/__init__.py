"""Videos and pictures as files."""
