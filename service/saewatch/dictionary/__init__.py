"""Dictionaries on their way into a bundle: formats, folding, attestations, writing. Runs beside no engine."""
