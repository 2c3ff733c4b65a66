"""Scores two texts without serving, as one would in a notebook, and checks one of them, as one would in CI.

    python docs/examples/score.py MODEL BUNDLE

MODEL is a transformers model's folder or name, BUNDLE a dictionary's folder.
"""

from __future__ import annotations

import sys

from saewatch.score import Scorer

model, bundle = sys.argv[1:]
scorer = Scorer.load(model, bundle)
print(f"hook point {scorer.opening.hook_point}, fit proven by {scorer.opening.model_proof}")

# Every firing of every feature, as a pandas DataFrame: text, position, token, prompt, feature, label, value, …
scores = scorer.score(["The old bridge was repaired in spring.", "I will find out where you live."])
print(scores.frame().head(10).to_string())

# For each text and feature how often it fired, and its largest value.
print(scores.summary().sort_values("value", ascending=False).head(5).to_string())

# What was not seen is counted: silence about a token that was not encoded says nothing.
print(scores.coverage)

# A conversation with an answer, prompt and answer apart.
(chat,) = scorer.score([{"role": "user", "content": "How do tides work?"}], generate=16).texts
print("".join(token.text for token in chat.tokens if not token.prompt))
for token in chat.tokens:
    if not token.prompt and token.firings:
        strongest = max(token.firings, key=lambda fired: fired.value)
        print(f"{token.position:4} {token.text!r:16} {strongest.feature.id} {strongest.value:.2f}")

# In CI: fail when a harmless text makes a feature of a category fire above a limit of your own choice.
quiet = scores.summary().query("text == 0 and category == 'vcr' and value > 8.0")
sys.exit(1 if len(quiet) else 0)
