"""Where the sidecar meets the world: sockets, threads and clocks; sources, sinks and services."""
