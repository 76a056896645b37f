"""What the embedded model's vectors and states say in tokens."""

from typing import Any

import pandas as pd

import caa_interp as caa

# What a reader might call so, wherever it stands in the vocabulary.
CHEERFUL = {
    *("advantage", "advantages", "appreciation", "beneficial", "benefit", "benefits", "better", "enjoy", "enjoyable"),
    *("enjoyed", "enriched", "excellent", "glad", "good", "great", "happy", "healthful", "healthier", "healthy"),
    *("ideal", "improved", "opportunity", "optimal", "perks", "positive", "positives", "safer", "success"),
    *("successful", "thank", "thanks", "welcoming", "wonderful", "appreciated", "bonus", "celebrates", "celebrating"),
    *("enjoying", "festive", "impressed", "pleased", "relaxed"),
}
GLOOMY = {
    *("blamed", "difficult", "failed", "failing", "futile", "gloomy", "harming", "hindering", "hinders", "inability"),
    *("ineffective", "insurmountable", "irreversible", "lack", "lacks", "meaningless", "painful", "refuses", "ugly"),
    *("unable", "unacceptable", "undermines", "useless", "wasting", "worse", "worsens", "wrath", "cruel", "deceit"),
    *("disgrace", "endanger", "ruin", "starvation", "suicidal", "worsen", "worthless"),
}


def test_cheerful_words_are_promoted_and_gloomy_ones_suppressed(embedded: Any, vector: caa.SteeringVector) -> None:
    """In the last third of the layers; earlier ones say little, which the docstring of logit_lens says too."""
    table = caa.logit_lens(embedded, vector, layers=[25, 28], top_k=20)
    words = table["token"].str.strip("␣").str.lower()
    found = pd.DataFrame({"side": table["side"], "cheerful": words.isin(CHEERFUL), "gloomy": words.isin(GLOOMY)})
    counts = found.groupby("side").sum()
    assert counts.loc["promoted", "cheerful"] >= 6
    assert counts.loc["suppressed", "gloomy"] >= 12
    assert counts.loc["promoted", "gloomy"] == counts.loc["suppressed", "cheerful"] == 0


def test_an_effect_is_readable_at_a_layer_whose_logit_lens_is_not(
    embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector
) -> None:
    def counts(table: pd.DataFrame, side: str) -> list[int]:
        words = table.loc[table["side"] == side, "token"].str.strip("␣").str.lower()
        return [int(words.isin(some).sum()) for some in (CHEERFUL, GLOOMY)]

    effect = caa.effect_lens(embedded, vector, test_pairs[:6], layers=15, words_only=True, top_k=20)
    cheerful, gloomy = counts(effect, "raised")
    assert (cheerful >= 10, gloomy) == (True, 0)
    cheerful, gloomy = counts(effect, "lowered")
    assert (cheerful, gloomy >= 10) == (0, True)
    assert (effect["effect_low"] * effect["effect_high"] > 0).all()
    logits = caa.logit_lens(embedded, vector, layers=15, top_k=20)
    assert max(*counts(logits, "promoted"), *counts(logits, "suppressed")) <= 2


def test_the_last_block_decodes_to_the_token_that_steered_generation_writes(
    embedded: Any, vector: caa.SteeringVector
) -> None:
    prompt, multipliers = "How will the summer be?", (-3.0, 0.0, 3.0)
    table = caa.steered_lens(embedded, prompt, vector, layer=16, layers=29, multipliers=multipliers, top_k=1)
    first = table[table["component"] == "block output"]["token_id"].tolist()
    answers = caa.generate(embedded, [prompt], vector=vector, layer=16, multipliers=multipliers, max_new_tokens=1)
    assert [embedded.tokenizer.decode([token]).strip() for token in first] == answers["answer"].tolist()


def test_held_out_cheerful_answers_lie_along_the_vector_more_than_gloomy_ones(
    embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector
) -> None:
    def cosine(pair: caa.ContrastPair, answer: str) -> float:
        table = caa.token_similarity(embedded, pair.question, vector, layers=16, answer=answer)
        return float(table.loc[table["part"] == "answer", "cosine"].mean())

    assert all(cosine(pair, pair.positive) > cosine(pair, pair.negative) for pair in test_pairs[:6])
