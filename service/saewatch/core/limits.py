"""Every bound of the program, with the reason for its size.

What a bound cuts off is counted where it is applied; nothing here is tuned at run time.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# --- wire ---------------------------------------------------------------------------------------------------------
FRAME_BYTES = 128 * KIB
"""One frame, header included: a Unix datagram of this size fits the kernel's default socket buffer (212,992 B)."""

TEXT_BYTES = 4 * KIB
"""One string in a control record: names, versions and ids; none of ours is longer than some hundred bytes."""

RECORD_ITEMS = 4096
"""Items of one list in a control record, before it is split into continuations."""

# --- watching -----------------------------------------------------------------------------------------------------
WATCH_SLOTS = 65_536
"""Slots of one watch set: a slot number is a u16 column on the wire."""

REQUESTS_PER_STEP = 65_536
"""Requests in one engine step; vLLM's own default for concurrent sequences is 1,024."""

POSITION_MAX = 2**31 - 1
"""Positions are i32 columns."""

# --- queues -------------------------------------------------------------------------------------------------------
QUEUE_BYTES = 8 * MIB
"""Frames that wait for the socket: about 20,000 tokens of 400 B, some 4 s of a busy engine; drop-newest after it."""

CONTROL_BYTES = 4 * MIB
"""Control records may exceed QUEUE_BYTES by this much; then the connection is given up and opened anew."""

SINK_QUEUE_BATCHES = 1024
"""Batches that wait for one slow sink of the sidecar."""

STAGING_SLOTS = 3
"""Steps between the forward pass and the encoder: two in flight under asynchronous scheduling, and one to fill."""

# --- dictionaries -------------------------------------------------------------------------------------------------
MANIFEST_BYTES = 8 * MIB
"""A data sheet or catalogue; 65,536 features of about 128 B."""

FEATURES = 65_536
"""Features of one catalogue: each needs at least one slot."""

LABEL_BYTES = 512
"""A feature's label: it travels in API answers and on dashboards."""

TENSOR_FILE_BYTES = 16 * 1024 * MIB
"""One safetensors file: 131,072 x 16,384 in float32 is half of it."""

TENSOR_HEADER_BYTES = MIB
"""The header of a safetensors file: ours hold under ten tensors."""

D_IN = 65_536
"""Width of a hook point; the widest published model has 18,432."""

LATENTS = 2**22
"""Latents of one dictionary; the largest published one has 2^24/16."""

# --- sidecar ------------------------------------------------------------------------------------------------------
LABEL_WAIT_NS = 1_000_000_000
"""A request's label may come later than its first firings by this much; then the request counts as unlabelled."""

RECORDS_KEPT = 10_000
"""Requests whose records the sidecar keeps after their end, oldest out first."""

SERIES_DEFAULT = 1000
"""Series of one metric unless configured otherwise."""

SERIES_MAX = 2000
"""Series of one metric at most: a scrape of 10,000 series costs 0.1 CPU-s."""

BEAT_INTERVAL_NS = 1_000_000_000
"""The engine's beat; three missed ones make a stream blind."""

BLIND_AFTER_NS = 3 * BEAT_INTERVAL_NS
"""No beat for this long: the stream is blind."""

REPLAY_BYTES = 32 * MIB
"""Window of encoded events that subscribers read from; a cursor that falls behind it gets a gap."""

SUBSCRIBERS = 64
"""WatchFirings calls at a time: 64 cost about a sixth of a core at 50 messages a second each."""
