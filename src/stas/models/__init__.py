"""What must be known of each transformer class."""
