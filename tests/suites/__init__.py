"""The paper's benchmarks, on invented prompts and stubs of the tools that score."""
