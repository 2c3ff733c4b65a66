"""What lives in the engine's process: the tap, the encoder and the shipper."""
