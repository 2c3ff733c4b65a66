"""Where events go: each sink is fed from a bounded queue of its own and never holds up the others."""
