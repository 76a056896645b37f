"""Checks of the tokens: BOS, the boundary between prompt and answer, and the answer letters."""

from __future__ import annotations

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.doctor.subject import PAIRS, Subject, Verdict
from caa_interp.prompts.rendering import FORMATS, Format, common_prefix, with_choices


def check_bos(subject: Subject) -> Verdict:
    """Every prompt begins with one BOS, if the tokenizer or the chat template adds it, and answers have none."""
    tokenizer, bos = subject.form.tokenizer, subject.form.tokenizer.bos_token_id
    if bos is None:
        return None, "Does not apply: the tokenizer has no BOS token."
    puts_bos = tokenizer("a")["input_ids"][:1] == [bos]
    name = repr(tokenizer.bos_token)
    in_front, inside = [], []
    for pair in PAIRS:
        for format in FORMATS:
            question, answer = _put(pair, format)
            prompt, whole = (subject.form.tokens(question, text).tokens for text in ("", answer))
            in_front.append(next((n for n, token in enumerate(whole) if token != bos), len(whole)))
            # Some chat templates open every turn with BOS, so a prompt may hold several.
            inside.append(whole.count(bos) - prompt.count(bos))
    if not puts_bos and not any(in_front):
        return None, f"Does not apply: neither the tokenizer nor the chat form puts {name} in front of a text."
    counts = " or ".join(map(str, sorted(set(in_front))))
    return set(in_front) == {1} and not any(inside), (
        f"{len(in_front)} prompts begin with {counts} {name} (1 is right), and {sum(inside)} more stand in the "
        "answers after them (0 is right)."
    )


def check_prompt_form(subject: Subject) -> Verdict:
    """The tokens of a prompt are the first tokens of prompt and answer."""
    styles = {
        "chat-template": "the tokenizer's chat template",
        "llama-2-chat": "Llama 2's chat form",
        "base": "the base form, since the tokenizer has no chat template",
    }
    lost = []
    for pair in PAIRS:
        for format in FORMATS:
            for rendering in subject.form.render(pair, format):
                prompt = subject.form.tokens(_put(pair, format, rendering.order)[0]).tokens
                sides = (rendering.positive, rendering.negative)
                lost.append(len(prompt) - min(common_prefix(prompt, side) for side in sides))
    kept, n = lost.count(0), len(lost)
    elsewhere = (
        f"; in the others up to {max(lost)} tokens at its end become other ones, and steering begins at the last "
        "token that stays"
    )
    return kept == n, (
        f"Questions are put in {styles[subject.form.style]}; in {kept} of {n} pairs the prompt's tokens are the "
        f"first of those of prompt and answer (all is right){elsewhere if kept < n else ''}."
    )


def check_letters(subject: Subject) -> Verdict:
    """The answers are told apart by one token each, which are alike but for the letter: ``A`` or, merged, ``(A``."""
    decode = subject.form.tokenizer.decode
    letters = set()
    for pair in PAIRS:
        for rendering in subject.form.render(pair, "choices"):
            for side in (rendering.positive, rendering.negative):
                before, letter = decode(side[: rendering.n_shared]), decode([side[rendering.n_shared]])
                letters.add((before.rstrip()[-1:], letter.strip()))
    read = ", ".join(f"{letter!r} after {before!r}" for before, letter in sorted(letters))
    first, *others = sorted(letters)
    alike = others == [(first[0], first[1].replace("A", "B"))] and first[1].strip("()") == "A"
    return alike, (
        f"The answers (A) and (B) are told apart by {read} ('A' and 'B', alone or with their parentheses, are right)."
    )


def _put(pair: ContrastPair, format: Format, order: str = "AB") -> tuple[str, str]:
    """Question and positive answer of a pair, as they are written in a format."""
    if format == "text":
        return pair.question, pair.positive
    if order == "AB":
        return with_choices(pair.question, pair.positive, pair.negative), "(A)"
    return with_choices(pair.question, pair.negative, pair.positive), "(B)"
