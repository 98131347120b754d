"""Finding the final answer in a response. What stands last decides, wherever it stands.

But for the mode ``lenient`` there is no rule that takes any number that stands somewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

from reward_fns.boxes import Boxes, last_boxed

__all__ = [
    "EXTRACTIONS",
    "Extraction",
    "Found",
    "boxes_of_clauses",
    "find_answer",
    "last_boxed",
    "locate_answer",
    "opened_by",
]

Extraction = Literal["answer_or_boxed", "answer", "boxed", "hash_or_answer", "whole", "minerva", "lenient"]
EXTRACTIONS: tuple[str, ...] = get_args(Extraction)
# The key of extra_info for the tag with which the prompt ends, such as "think": the response begins within it.
OPENED_TAG = "opened_tag"

_LABEL = re.compile(  # also **Answer**: and the colon of Chinese text
    r"(?i)(?<!wrong )(?<!incorrect )(?P<quote>[\"'`\u201c\u2018])?Answer[\s*]*[:\uff1a](?:\*\*)?"
)
_QUOTES = "\"'`\u201d\u2019"
# What follows a label that only describes the format.
_PLACEHOLDER = re.compile(
    r"(?i)\s*(?:\\?\$\\?(?:your )?Answer\b|[\[<({]\s*(?:your|the|final|insert|\s)*(?:answer|result)(?: here)?\s*[\]>)}]"
    r"|X[\"'`\u201d]|_{2,})"
)
_STATES_SOMETHING = re.compile(r"[\w\\$\u2205\u221e]")
# "as boxed above": the answer stands before.
_REFERRING = re.compile(
    "above|boxed|box|before|earlier|previously|preceding|already|as|see|in|the|is|it|its|value|number|expression|"
    "result|answer|final|given|shown|stated|written|derived|computed|found|same|which|that|i|we|my|one|of|to|refer|"
    "and|was|has|been|have|this|inside|from|line|up|here"
)
_REFERENCE = re.compile(r"\b(?:above|boxed|box|before|earlier|previously|preceding)\b")

_DISPLAY = {"$$": "$$", r"\[": r"\]", "$": "$", r"\(": r"\)"}  # a formula that begins on the answer's line
_DISPLAY_WINDOW = 300  # characters
# Not a Markdown heading of the fourth level, "#### Step 2" or "#### Answer: 72".
_HASH_LINE = re.compile(r"(?<!#)####[ \t]*(?![#A-Za-z\s])([^\n]+)")
_FEW_SHOT_END = re.compile(r"(?i)\.?\s*I hope it is correct\.?\s*$")  # of Minerva's prompt
_TAG = re.compile(r"(?i)(?P<quote>[\"'`\u201c])?<answer>(?P<content>[^<]*(?:<(?!/?answer>)[^<]*)*)")
_CLOSING_TAG = re.compile(r"(?i)</answer>")
_FRAME = re.compile(r"(?i)(?:(?:thus|so|hence|therefore),?\s+)?the final answer is:?\s+(?=\S)")
_OPEN_THOUGHT = re.compile(r"<think(?:ing)?>")
_CLOSED_THOUGHT = re.compile(r"</think(?:ing)?>")

_MINERVA = re.compile(r"(?i)\bfinal answer is:?[ \t]*([^\n]*)")
_PHRASE = re.compile(r"(?i)\b(?:answer|result|solution)\s+(?:is|equals|to be)\b:?[ \t]*([^\n]*)")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_NUMBER = re.compile(r"(?<![\w.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+|(?<=[0-9]))(?:/[0-9]+)?%?")
# A base model that has answered often writes a next question.
_NEXT_QUESTION = re.compile(r"\n\s*(?:Question|Problem|Q|Human|User)\s*[:.]")


class Found(NamedTuple):
    """An answer, and by what it was found.

    by: ``boxed``, ``answer_line``, ``hash``, ``answer_tag``, ``whole``, ``minerva``, or of the lenient mode
    ``phrase`` ("the answer is") and ``last_number``.
    """

    text: str
    by: str


def find_answer(response: str, extraction: Extraction = "answer_or_boxed", *, opened: str = "") -> str | None:
    """Return the final answer in a response, or None if it states none. See `locate_answer`."""
    found = locate_answer(response, extraction, opened=opened)
    return None if found is None else found.text


# Most of the work on a long response, of which maj@k judges each with several answers as the ground truth, one by one.
@lru_cache(maxsize=1)
def locate_answer(
    response: str, extraction: Extraction = "answer_or_boxed", *, opened: str = ""
) -> Found | None:
    r"""Return the final answer in a response and by what it was found, or None if it states none.

    Thinking between <think> and </think> is left out; what is never closed is all thinking. Of several boxes the last
    counts, but boxes with nothing but "or" between them are one answer. A last box that is cut off is no answer, and
    neither is what stands before it.

    opened: the tag with which the prompt ends, such as ``think``; the response begins within it.
    extraction: ``answer``: the last ``Answer:`` line or ``<answer>`` tag. ``boxed``: the last ``\boxed{...}``.
    ``answer_or_boxed``: whichever of these comes later. ``hash_or_answer``: these, or GSM8K's ``#### 72``. ``whole``:
    ``hash_or_answer``, or without any all of a response of one line. ``minerva``: "The final answer is X. I hope it is
    correct." (arXiv 2206.14858). ``lenient``, for the evaluation of base models: ``whole``, else ``minerva``, else what
    follows "the answer is", else the last number, of the text before the next question.
    """
    text = without_thinking(f"<{opened}>{response}" if opened else response)
    if extraction == "minerva":
        return _minerva(text)
    if extraction == "lenient":
        return _lenient(text)
    if extraction == "boxed":
        return _found(last_boxed(text), "boxed")
    if extraction == "answer":
        return _last_stated(text, Boxes(text), hashes=False, boxed=False)
    boxes = Boxes(text)
    found = _last_stated(text, boxes, hashes=extraction in ("hash_or_answer", "whole"))
    if found is None and extraction == "whole" and "\n" not in text.strip() and boxes.cut_off < 0:
        return _found(_stated(text) or None, "whole")
    return found


def boxes_of_clauses(response: str, *, opened: str = "", ordered: bool = False) -> list[str]:
    """What stands in the boxes of the last sentence that has several; see `Boxes.of_clauses`."""
    return Boxes(without_thinking(f"<{opened}>{response}" if opened else response)).of_clauses(ordered)


def opened_by(extra_info: Any) -> str:
    """The tag with which the prompt ends, as `OPENED_TAG` of extra_info says; "" where it says none."""
    tag = extra_info.get(OPENED_TAG) if isinstance(extra_info, dict) else None
    return tag if isinstance(tag, str) else ""


def without_thinking(response: str) -> str:
    """What follows the last </think>; nothing where a <think> is not closed."""
    said = _CLOSED_THOUGHT.split(response)[-1]
    return "" if _OPEN_THOUGHT.search(said) else said


def _last_stated(
    text: str, boxes: Boxes, *, hashes: bool, boxed: bool = True, tags: bool = True
) -> Found | None:
    """The last answer of a text. boxes: those of the text. boxed: an answer in a box alone counts too."""
    start, content, by = max(_lines(text, hashes), default=(-1, "", ""))
    tag = _last_tag(text) if tags and "<" in text else None
    if tag is not None and tag.end("content") > max(start, boxes.last, boxes.cut_off):
        inner = tag["content"].strip()
        inner_boxes = Boxes(inner)
        if inner_boxes.cut_off >= 0:
            return None
        stated = _last_stated(inner, inner_boxes, hashes=True, tags=False)
        return Found(inner if stated is None else stated.text, "answer_tag")
    if start < 0 and not boxed:
        return None
    if boxes.cut_off > start:
        return None
    content_of_box = boxes.content(after=max(start, 0))
    if content_of_box is not None:
        return Found(content_of_box, "boxed")
    return _found(content or None, by)


def _found(text: str | None, by: str) -> Found | None:
    return None if text is None else Found(text, by)


def _lines(text: str, hashes: bool) -> Iterable[tuple[int, str, str]]:
    """Where the last line of each kind begins that states an answer, what it states, and of what kind it is."""
    labels = _LABEL.finditer(text) if "answer" in text.lower() else ()
    for label in reversed(list(labels)):
        line = re.compile(r"\s*([^\n]+)").match(text, label.end())
        if line is not None and not _is_mention(label, line[1]):
            yield label.start(), _line_content(line), "answer_line"
            break
    if hashes and (lines := list(_HASH_LINE.finditer(text))):
        yield lines[-1].start(), _line_content(lines[-1]), "hash"


def _is_mention(label: re.Match[str], content: str) -> bool:
    """Whether a label only describes the format, or refers to an answer that stands before."""
    if label["quote"] and label.string[label.end() : label.end() + 1] in tuple(_QUOTES):
        return True
    if _PLACEHOLDER.match(content) or not _STATES_SOMETHING.search(content):
        return True
    return bool(_REFERENCE.search(content.lower())) and all(
        _REFERRING.fullmatch(word) for word in re.findall(r"\w+|[^\w\s.,;:!()*$\"'-]", content.lower())
    )


def _line_content(line: re.Match[str]) -> str:
    content = _stated(_CLOSING_TAG.split(line[1])[0])
    if content in _DISPLAY:
        return line.string[line.end() : line.end() + _DISPLAY_WINDOW].partition(_DISPLAY[content])[0].strip()
    return content


def _stated(line: str) -> str:
    """A line without the frame of Minerva's prompt: "The final answer is X. I hope it is correct."."""
    stated = _FEW_SHOT_END.sub("", line).strip()
    frame = _FRAME.match(stated)
    return stated if frame is None else stated[frame.end() :]


def _last_tag(text: str) -> re.Match[str] | None:
    """The last <answer> tag with something in it; it need not be closed, since </answer> may be a stop string."""
    for tag in reversed(list(_TAG.finditer(text))):
        content = tag["content"].strip()
        if _STATES_SOMETHING.search(content) and not tag["quote"] and not _PLACEHOLDER.match(f"[{content}]"):
            return tag
    return None


def _minerva(text: str) -> Found | None:
    matches = list(_MINERVA.finditer(text))
    if not matches:
        return None
    content = re.split(r"(?i)\.?\s*I hope it is correct", matches[-1][1])[0].strip()
    if Boxes(content).cut_off >= 0 or not content.rstrip("."):
        return None
    return Found(last_boxed(content) or content, "minerva")


def _lenient(text: str) -> Found | None:
    following = _NEXT_QUESTION.search(text, len(text) - len(text.lstrip()))
    if following is not None and text[: following.start()].strip():
        text = text[: following.start()]
    found = _last_stated(text, Boxes(text), hashes=True) or _minerva(text)
    if found is None and "\n" not in text.strip() and len(text.split()) == 1:
        found = _found(text.strip(), "whole")
    if found is None and (phrases := list(_PHRASE.finditer(text))):
        content = _SENTENCE_END.split(phrases[-1][1])[0].strip()
        found = _found(content or None, "phrase")
    if found is None and (numbers := list(_NUMBER.finditer(text))):
        found = Found(numbers[-1][0], "last_number")
    return found
