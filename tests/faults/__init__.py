"""Faults on purpose: what is injected, what clients saw meanwhile, and whether each call is accounted for."""
