"""What both processes share: records, frames, hook points, manifests, limits and errors. Imports nobody."""
