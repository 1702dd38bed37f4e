"""Evaluation on declared-public pairs: verification metrics."""
