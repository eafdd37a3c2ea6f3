"""A training from its start to its end: state, step, update, resumption, and what it says meanwhile."""
