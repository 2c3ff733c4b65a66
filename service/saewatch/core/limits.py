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
BATCH_ROWS = 2**20
"""Rows of one batch; a step has at most some 10,000. A span says any number of rows in 13 bytes: what is made for each
row of a batch that was read is bounded by this, not by its frame (20 MiB for `row_positions`)."""
COUNT_MAX = 2**63 - 1
"""Counters, sequence numbers and times: what an int64 holds, which protobuf and numpy go on with."""

# --- queues -------------------------------------------------------------------------------------------------------
QUEUE_BYTES = 8 * MIB
"""Frames that wait for the socket: about 20,000 tokens of 400 B, some 4 s of a busy engine; drop-newest after it."""
CONTROL_BYTES = 4 * MIB
"""Control records may exceed QUEUE_BYTES by this much; then the connection is given up and opened anew."""
SINK_QUEUE_BATCHES = 1024
"""Batches that wait for one slow sink of the sidecar."""
STAGING_SLOTS = 3
"""Steps between the forward pass and the encoder: two in flight under asynchronous scheduling, and one to fill."""
REUSE_BYTES = 64 * MIB
"""Firings that an engine keeps on the host for prompts that come again, over all its streams, used longest ago out
first. A block of 16 tokens with 4 firings each takes 608 B: 1.7 million tokens; with 16 firings each 1,760 B: 610,000,
whose keys and values take 74 GiB in a model of 8 billion parameters. 0 keeps none."""
REUSE_BYTES_MAX = 1024 * 1024 * MIB
"""The most: a TiB of host memory."""
STEPS_BEGUN = 64
"""Steps whose tokens the engine has not fetched: it runs ahead by one, and by one for each stage of a pipeline. With so
many, the first one's tokens will never come."""

# --- dictionaries -------------------------------------------------------------------------------------------------
MANIFEST_BYTES = 8 * MIB
"""A data sheet or catalogue; 65,536 features of about 128 B."""
JSON_DEPTH = 16
"""Nesting of a digested JSON object; ours have at most 5 levels."""
FEATURES = 65_536
"""Features of one catalogue: each needs at least one slot."""
LABEL_BYTES = 512
"""A feature's label: it travels in API answers and on dashboards."""
NAME_BYTES = 256
"""Who reviewed a label, and which model wrote it: a person's name, or a path on a hub."""
EXPLANATION_LINE_BYTES = 256 * KIB
"""One line of an export of explanations: some hundred bytes, and an embedding of a thousand numbers."""
EXPLANATIONS_FILE_BYTES = 1024 * MIB
"""One such file, unpacked: 65,536 explanations with their embeddings are under half of it."""
EXPLANATIONS = 262_144
"""Explanations kept of an export: 131,072 latents with two each."""
LABEL_FILE_BYTES = 64 * MIB
"""A CSV of labels: as many features as a catalogue takes, each with a label and its other columns."""
DECISIONS = 65_536
"""Verdicts on labels in one review, over all times: one of each feature; they end at MANIFEST_BYTES before that."""
EXAMPLE_FEATURES = 4096
"""Features that examples are gathered for in one pass: some 100 examples each, half a KiB an example."""
EXAMPLES_EACH = 64
"""Examples of one kind: a person reads ten, and an interval over 64 is a quarter wide."""
EXAMPLE_WINDOW = 64
"""Tokens on either side of an example's token: a paragraph."""
EXAMPLE_LINE_BYTES = 16 * MIB
"""A feature's examples: 448 of 129 tokens of some 40 B, many times over."""
CHAT_ANSWER_BYTES = MIB
"""An answer of a chat endpoint: some hundred bytes are asked for, and some models think aloud."""
PROGRESS_BYTES = 64 * MIB
"""What a run that labels features has noted of its progress: half a KiB a feature."""
LISTED = 50
"""Features that a verb lists for people where there may be thousands; --json has all."""
TENSOR_FILE_BYTES = 16 * 1024 * MIB
"""One safetensors file: 131,072 x 16,384 in float32 is half of it."""
TENSOR_HEADER_BYTES = MIB
"""The header of a safetensors file: ours hold under ten tensors."""
ARCHIVE_MEMBERS = 64
"""Members of an archive of weights: those that are read hold under ten arrays, and torch adds some of its own."""
ARCHIVE_DIRECTORY_BYTES = 64 * KIB
"""Its directory: it is read as a whole, and a member takes some 100 B."""
ARCHIVE_RATIO = 16
"""Times its own size that an archive may unpack to: weights hardly shrink, and a zip bomb grows a thousandfold."""
ARRAY_HEADER_BYTES = 4 * KIB
"""The header of one array in it, which numpy pads to 64 or 128 B."""
CHECKPOINT_SCALARS_BYTES = MIB
"""Plain values that a checkpoint holds beside its tensors."""
CHECKPOINT_SPARE_BYTES = 512 * MIB
"""Memory of the process that reads a checkpoint, over what torch has taken and twice the file."""
CHECKPOINT_S = 60
"""Processor seconds of that process, and of waiting for it twice as many, besides one for each 10 MiB."""
D_IN = 65_536
"""Width of a hook point; the widest published model has 18,432."""
LATENTS = 2**22
"""Latents of one dictionary; the largest published one has 2^24/16."""
SPECIAL_TOKENS = 4096
"""Token ids that a dictionary excludes; Llama 3's tokenizer has 256 special ones."""
HEADS = 256
"""Probe heads of one dictionary: each has four tensors, and their names go into a header of at most a MiB."""
HEAD_UNITS = 4096
"""Hidden units of one: published probes have some hundred."""
HEADS_UNITS = 16_384
"""Of all together: at 1,024 rows they take 192 MiB between the layers, which no number of slots says."""
POOLED_HEADS = 256
"""Heads of attention of all pooled probes of one dictionary: 2 KiB a token that go to the host."""
POOL_BYTES = 64 * MIB
"""What one stream keeps of open requests for its pooled probes, on the host: 24 B a head, so 10,900 requests at the
most heads, 700,000 at four. Beyond it the tokens of further requests are counted as missed."""
ATTESTATIONS = 256
"""Attestations in one bundle: some ten kinds, each re-measured now and then."""
CONFORMANCE_ROWS = 4096
"""Stored rows that an encoder is checked with; 64 are enough to tell every loading mistake that was tried."""
ENCODE_PART_BYTES = 64 * MIB
"""Values of a file's rows encoded at a time: 128 rows of 131,072 latents. The encoder holds some ten times it."""
ENCODE_PART_ROWS = 1024
"""Rows of them at most: beyond it a product gets no faster."""
ENVELOPE_BYTES = 12 * MIB
"""A signed sheet: MANIFEST_BYTES in base64, and signatures."""
SIGNATURES = 64
"""Of one sheet: a few people sign, and each with one key."""
KEY_BYTES = 16 * KIB
"""A file with one key: an Ed25519 key in PEM has 119 bytes."""
TRUSTED_KEYS = 256
"""Public keys in a folder of trusted ones: those who may release, and the keys that they had before."""
JOURNAL_LINE_BYTES = 8 * KIB
"""One move of a ref: three digests, an actor and a reason of at most TEXT_BYTES each."""
JOURNAL_FILE_BYTES = 64 * MIB
"""The moves of one slot: some 80,000."""
HELD_SCORES = 2**26
"""Scores that limits are chosen on, or a certificate compares, features times requests: 512 MiB."""
SCORES_FILE_BYTES = 1024 * MIB
"""A file of scores, a line of some 80 B each: more than `HELD_SCORES` hold of most catalogues."""
ORACLE_S = 3600
"""A dictionary's own library answers so long: it may have 16 GiB to read."""

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
CONNECTIONS = 64
"""Engines and API-server processes on one sidecar's socket; a node runs 8 engines with some API servers each."""
DRAIN_FRAMES = 64
"""Frames read from one connection before the next one's turn: about a millisecond."""
BACKLOG_FRAMES = 4096
"""Frames that a closed connection may have left in the kernel: 512 KiB of datagrams that each cost at least 256 B."""
BAD_FRAMES_IN_A_ROW = 16
"""Frames that cannot be read before a connection is closed: it is not one of ours, or of another version."""
COMMANDS_WAITING = 16
"""Commands that wait for a connection to take them: a peer that reads takes each at once."""
SELF_TEST_S = 10
"""How long a self-test is waited for: an engine's thread answers in well under a second."""
SELF_TEST_MAX_S = 60
"""What a caller may ask for instead: what takes longer hangs."""
CHANGE_S = 10
"""How long an engine's answer is waited for when it is switched on or off, or is to watch other features."""
LOAD_S = 60
"""… when it loads another dictionary: it reads, checks and folds what may be some GiB."""
CHANGE_MAX_S = 600
"""What a caller may ask for instead: the largest tensor file, 16 GiB, at 30 MiB/s."""
ACK_FRAMES = 64
"""Batches after which an acknowledgement is due: they bound what an engine has to remember."""
ACK_INTERVAL_NS = 50_000_000
"""Time after which it is due: 20 small frames a second cost nothing."""
STREAMS_KEPT = 64
"""Streams that the sidecar remembers, ended ones included: 8 engines with 8 hook points each."""
WATCH_SETS_KEPT = 16
"""Watch sets of one stream: only the last is in use, but batches of the one before may still be on their way."""
LOST_ENGINE_NS = 60 * BEAT_INTERVAL_NS
"""Without a connection for this long an engine is taken for gone: its requests are lost, its streams if replaced."""
OPEN_REQUESTS = 65_536
"""Requests open at a time, as in REQUESTS_PER_STEP; the oldest is given up beyond it."""
REQUESTS_LEAVING = 1024
"""Ended requests after which their records are made up at once: some 0.1 ms each."""
JOURNAL_BYTES = 4 * MIB
"""What batches came to before it is sorted by request: some 50 steps of 256 tokens with 16 firings each, 20 B a firing.
Sorting them together costs a tenth of sorting each."""
LABELS_WAITING_BYTES = MIB
"""Labels that an API server keeps for a sidecar that does not read: some 7,000, seconds of a busy server's."""
LABELS_KEPT = 16_384
"""Labels kept for requests that are still to start: those that wait inside the engine, oldest out first."""
HELD_BYTES = 8 * MIB
"""Batches that wait for a label, one second of a busy engine is under 3 MiB; beyond it the oldest is unlabelled."""
DICTIONARIES_KEPT = 64
"""Dictionaries of a store that the sidecar keeps beside the configured ones: what 8 engines run, and what ran before.
Oldest out first, to be read again when it is needed: a catalogue of 2,048 features is some MiB."""
SHADOW_PAIRS = 16
"""Pairs of a stable dictionary and its shadow whose comparison is kept: two of each of 8 hook points. One of 65,536
features takes 8 MiB over a day, one of 2,048 some 250 KiB. Oldest out first."""
SHADOW_IDS = 100
"""Ids of features of one side only that an answer names: they are listed to be looked at, and `diff` has them all."""
RECORD_FIRINGS = 32_768
"""Firings of an open request that its record keeps apart, 12 B each, so that a recomputed position can replace them."""
RECORD_FIRINGS_BYTES = 64 * MIB
"""The same over all open requests."""
RECORD_BYTES = 64 * MIB
"""Tallies of ended requests, some 3 KiB each for 100 features that fired; oldest out first."""
RECORDS_FOUND = 64
"""Records in one answer: a client's id may belong to any number of requests."""
POLICY_RULES = 1000
"""Rules of one policy, and silences."""
POLICY_LEAVES = 64
"""Leaves of one rule's condition, and names in one leaf."""
POLICY_DEPTH = 8
"""Levels of a condition."""
POLICY_WINDOW = 64
"""Values that a statistic keeps of each request: k of topK, KofN and runK."""
POLICY_WITHIN = 2**20
"""Tokens that a rule may look back."""
POLICY_STEPS = 100_000
"""Elementary steps of a policy for one token on which everything fires and everything occurs: some ten milliseconds."""
POLICY_CASES = 1000
"""Written requests that a policy's rules are tested on."""
POLICY_CASE_TOKENS = 65_536
"""Tokens of one of them."""
POLICY_REQUEST_BYTES = 256 * KIB
"""State of a policy for one request: with as many requests as are judged at a time 4 GiB at the very worst, and some
ten MiB for a policy of 200 rules and 1,000 requests."""
POLICY_SUBJECTS = 16_384
"""Requests, or conversations, that a policy judges at a time; those beyond are counted as not judged."""
ALERTS_KEPT = 10_000
"""Alerts that can be listed and acknowledged, oldest change out first: some 2 KiB each."""
ALERT_REPLAY_BYTES = 8 * MIB
"""Changes of alerts kept for subscribers that fall behind or come back: some 2,000."""
ALERT_STORED_BYTES = 64 * KIB
"""One alert in the history: a longer one, of hundreds of features, is kept in memory only."""
ALERTS_STORED = 2000
"""Alerts that outlive the sidecar, oldest change out first: 4 MiB of the history as alerts usually are."""
RULES_JUDGED = 10_000
"""Rules, each in each of its versions, whose verdicts are stored, those judged longest ago out first."""
ACKNOWLEDGEMENT_BYTES = KIB
"""Why somebody found an alert right or wrong: some sentences."""
VERDICT_STREAMS = 64
"""WatchVerdict calls at a time: an application's processes share one each."""
VERDICT_NAMES = 1000
"""Requests followed on one of them: vLLM's own default for concurrent sequences is 1,024."""
VERDICT_REQUESTS = 16_384
"""Requests whose verdicts are kept, ended ones included, oldest out first: as POLICY_SUBJECTS, some KiB each."""
VERDICT_ALERTS = 16
"""Alerts named in one verdict, the gravest first; a request that a thousand rules object to needs no more."""
WEBHOOKS = 16
"""Webhooks of one sidecar: each is a queue, a connection and a signature for each alert."""
WEBHOOK_QUEUE = 1000
"""Alerts that wait for one webhook: 2 MiB as alerts usually are, and more than anybody reads."""
WEBHOOK_ATTEMPTS = 12
"""To send one alert: with the waits below a quarter of an hour on average, and half an hour at most."""
WEBHOOK_FIRST_S = 1
"""Ceiling of the first wait between them."""
WEBHOOK_MAX_S = 300
"""Ceiling of every wait: a receiver that is back is found within five minutes."""
WEBHOOK_TIMEOUT_S = 15
"""For one attempt, as the specification of Standard Webhooks advises."""
WEBHOOK_SECRET_BYTES_MIN = 24
"""Of a key, by the same specification."""
WEBHOOK_SECRET_BYTES_MAX = 64
"""Of a key at most, by the same specification."""
WEBHOOK_SECRET_FILE_BYTES = KIB
"""A file with a secret: some hundred characters."""
CANARIES = 1024
"""Canaries of one sidecar: at twice a period of five minutes, seven a second, of which an engine has to serve each."""
CANARY_BYTES = 16 * KIB
"""One canary's line: a prompt of some thousand tokens; its padding is added when it is sent."""
POLICY_CONVERSATION_NS = 3600 * BEAT_INTERVAL_NS
"""A conversation that was silent for so long has ended for its rules."""
DRIFT_BLOCK_NS = 600 * BEAT_INTERVAL_NS
"""A block of time that drift is judged on, at least: 144 of them a day."""
DRIFT_BLOCK_NS_MAX = 6 * 3600 * BEAT_INTERVAL_NS
"""… and at most, while it waits for requests: a day has at least four."""
DRIFT_BLOCK_REQUESTS_MIN = 50
"""Requests that a block waits for, and without which nothing is concluded from it."""
DRIFT_BLOCK_REQUESTS = 2**19
"""Requests at which a block is closed at once: its sums of marks, 3,072 a request, stay in 32 bits."""
DRIFT_REQUESTS_TOGETHER = 256
"""Ended requests whose records are made up together for the detectors of drift, unless a second passes before."""
BASELINE_BYTES = 64 * MIB
"""A baseline's numbers: 65,536 features take 6 MiB."""
BASELINE_FIRST = 2000
"""Requests whose values say what a feature's marks are counted in; they need not be accurate."""
BASELINE_CELLS = 2**27
"""Blocks times features that a baseline is fitted to: four weeks of 33,000 features, 2 GiB."""
FLUSH_NS = 20_000_000
"""Age at which gathered firings leave as one message: a message costs 30 to 80 us of CPU whatever its size to 13 kB."""
FLUSH_BYTES = 64 * KIB
"""Size at which they leave."""
FLUSH_TOKENS = 1024
"""Tokens at which they leave."""
ENCODINGS_BYTES = 8 * MIB
"""Encoded messages kept for subscribers with the same filter, so that each is encoded once."""
PAGE_ITEMS = 1000
"""Items of one page of a list; 50 unless asked otherwise (AIP-158)."""

# --- recordings ---------------------------------------------------------------------------------------------------
RECORDING_BYTES = 1024 * MIB
"""A recording unless another bound is asked for: two days of the demo, ten minutes of a busy engine at 2 MB/s."""
RECORDING_QUEUE_BYTES = 16 * MIB
"""Records that wait for the disk: some 8 s of a busy engine, which is twice what it keeps itself."""
RECORDING_SEARCH_BYTES = MIB
"""A file without one frame of ours in so many bytes at its beginning is no recording."""
RECORDING_SILENCE_NS = 3600 * BEAT_INTERVAL_NS
"""A longer silence is not replayed beat by beat: a clock that was wrong could make it endless."""
RECORDED_REQUEST_TOKENS = 2**24
"""A request that scores are made of from a recording: the longest contexts that are served have some million tokens."""
DIFF_REQUESTS = 2**18
"""Requests of one recording that an upgrade diff holds: names and lengths come to some 40 MiB."""
DIFF_ENTRIES = 2**23
"""Requests times features that fired in them, of one recording that an upgrade diff holds: 128 MiB."""
DIFF_UNITS = 50
"""Conversations or requests on each side, without which an upgrade diff says nothing: a count of 10 is then a fifth."""
MARK_INTERVAL_NS = 1_000_000
"""Frames of one connection within this time share a mark, 80 B: a busy engine sends tens of frames in it."""
INDEX_MARKS = 4096
"""Marks in a recording's index: 64 KiB, so that it is one frame."""
SHEET_PART_BYTES = 64 * KIB
"""A bundle's file goes into a recording in parts of this size."""

# --- history ------------------------------------------------------------------------------------------------------
HISTORY_FLUSH_S = 1
"""Age at which gathered batches become a block: what a query may be behind, and a transaction a second."""
HISTORY_BLOCK_FIRINGS = 100_000
"""Firings at which they do earlier: some 500 KB, which a query reads at once."""
HISTORY_BLOCK_ROWS = 2**20
"""Rows at which they do: a block's rows stay far from what an i32 counts."""
HISTORY_BLOCK_NS = 2_000_000_000
"""From a block's first step to its last: a query finds every block of a time by looking this far around it."""
HISTORY_PENDING_BYTES = 32 * MIB
"""Batches kept while the disk takes none: some ten seconds of a busy engine."""
HISTORY_MIB_MIN = 32
"""The least that a history may take: below, its write-ahead log would be most of it."""
HISTORY_MIB_MAX = 1024 * 1024
"""The most: beyond a TiB one file is no place for it."""
HISTORY_HOURS_MAX = 10 * 8784
"""Ten years: longer than any duty to keep, and far from what a time in ns holds."""
HISTORY_WAL_BYTES = 8 * MIB
"""Of that, the write-ahead log: 4 MiB, at which SQLite moves it into the file, and the largest transaction."""
HISTORY_LOSSES = 10_000
"""Losses that are remembered, one for each cause and hour: a year of one cause; oldest out first."""
HISTORY_REMOVED_BLOCKS = 128
"""Blocks that retention removes in one transaction: the write-ahead log holds what they touch."""
QUERY_BLOCKS = 1024
"""Blocks opened for one page of a query."""
QUERY_S = 1
"""Time spent on one page, but for a bucket or a request that takes longer by itself."""
QUERIES = 4
"""Queries of the history at a time; more wait. Each has a thread and holds a block or two."""
QUERY_REQUESTS = 10_000
"""Requests chosen by a filter that are looked up beforehand; more are decided block by block."""
QUERY_FEATURES = 32
"""Features listed in a request's summary."""
BUCKET_NS_MIN = 100_000_000
"""The shortest bucket: shorter ones would read a block many times."""
BUCKET_NS_MAX = 366 * 24 * 3600 * 10**9
"""The longest, a leap year: beyond it one bucket for everything says the same."""
QUERY_BYTES = 3 * MIB
"""Of one page: clients take 4 MiB unless told otherwise."""

# --- client -------------------------------------------------------------------------------------------------------
MESSAGE_BYTES = 16 * MIB
"""One message that the Python client takes: the sidecar's have at most 4 MiB, those of a stream some 64 KiB."""
QUERY_WAIT_S = 120
"""The Python client waits so long for a page: one bucket over everything takes as long as reading everything does."""

# --- scoring ------------------------------------------------------------------------------------------------------
SCORE_FILE_BYTES = 64 * MIB
"""One file of prompts: it is tokenised as a whole before the first is read, some 16 million tokens."""

# --- evaluation ---------------------------------------------------------------------------------------------------
QUALITY_SAMPLE_BYTES = 32 * MIB
"""Activations kept to look for what went wrong, and to set a random dictionary's thresholds on: 2,000 rows of 4,096."""
QUALITY_REQUESTS = 20_000
"""Labelled requests of one evaluation: their activations' means take 330 MiB at a width of 4,096."""
QUALITY_LATENTS = 4096
"""Latents of the random dictionary: with its largest values on 20,000 requests they take 330 MiB."""
QUALITY_WORDS = 8192
"""Words and pairs of words that requests are told apart by: 660 MiB at 20,000 requests."""
QUALITY_FEATURES = 4096
"""Features of one evaluation, some 2 KiB each in the attestation, which has to fit into 8 MiB."""
