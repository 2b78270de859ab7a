"""Loading pipelines and making videos with them."""
