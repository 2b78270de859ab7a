"""What is measured on videos."""
