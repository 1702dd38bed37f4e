"""Synthetic faces: a generator learns from public people, faces of nobody are drawn from it, filtered, and judged.

The method is ID3 (NeurIPS 2024, https://arxiv.org/abs/2409.17576). A synthetic face is not anonymous by construction:
`leakage` looks for the faces that the generator was trained on.
"""
