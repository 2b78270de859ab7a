"""The paper's benchmarks: VBench and T2V-CompBench, their videos, scores and tables."""
