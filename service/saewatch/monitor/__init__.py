"""What the firings came to: streams, requests, records and rates. Pure: no clock, no socket, no thread."""
