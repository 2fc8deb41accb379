"""The sampler that models the score only, since costs are known: `searching.samplers.known_cost`."""
