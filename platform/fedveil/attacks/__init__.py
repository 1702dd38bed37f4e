"""Attacks on finished runs: one file is one attack, its frozen dataclass is its settings.

What an attack finds is a lower bound on what leaks: somebody may know a better one. A defence counts only against the
strongest attack that was run.
"""
