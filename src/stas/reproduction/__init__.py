"""The paper's whole evaluation, from one file to one page."""
