"""The gRPC services of protos/saewatch/v1."""
