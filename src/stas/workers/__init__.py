"""Work that any number of processes share, on any machines that see one folder."""
