"""Many machines: the jobs of the stages as a Ray Data pipeline."""
