"""Stages of a run, from its config to its report, as a generator of events."""
