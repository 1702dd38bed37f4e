"""Aggregation rules, one file each: the expected-cohort mean of updates -> new weights."""
