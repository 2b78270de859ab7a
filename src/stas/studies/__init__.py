"""Many videos: comparisons and studies."""
