"""Verbs on dictionaries: `saewatch dictionary WORD`, a module each. They run beside no engine."""
