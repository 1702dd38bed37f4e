"""Where faces come from: one file is one source, a frozen dataclass with `load(seed, size_hint) -> Split`."""
