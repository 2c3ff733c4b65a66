"""Dialogues as the demo's and the fixture's chat template writes them, and which characters are whose."""

from dataclasses import dataclass

PROMPT_END = "<|im_end|>\n<|im_start|>assistant\n"
PROMPT_START = "<|im_start|>user\n"
REPLY_END = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A dialogue's text; the prompt (with the opening of the reply) is `text[:prompt_end]`."""

    text: str
    prompt_start: int  # of the user's own words
    prompt_end: int


def render(prompt: str, reply: str = "") -> Rendered:
    """One user turn, and the assistant's reply if there is one."""
    head = f"{PROMPT_START}{prompt}{PROMPT_END}"
    return Rendered(head + (reply + REPLY_END if reply else ""), len(PROMPT_START), len(head))
