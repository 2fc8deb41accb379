"""The search: samplers, the study that is the only state, and the Pareto front."""
