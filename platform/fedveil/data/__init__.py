"""Faces: sources, partition over clients, verification pairs."""
