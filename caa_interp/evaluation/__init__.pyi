from .audit import (
    is_refusal as is_refusal,
    safety_audit as safety_audit,
    summarize_audit as summarize_audit,
)
from .baselines import (
    baselines as baselines,
    few_shot_prompt as few_shot_prompt,
)
from .coherence import coherence_gate as coherence_gate
from .controls import (
    orthogonal_vectors as orthogonal_vectors,
    random_vectors as random_vectors,
    rescaled_to as rescaled_to,
    shuffled_vectors as shuffled_vectors,
)
from .cost import (
    capability as capability,
    perplexity as perplexity,
    side_effects as side_effects,
)
from .divergence import divergence as divergence
from .dose_response import dose_response as dose_response
from .finetuning import fine_tune as fine_tune
from .frontier import (
    at_equal_cost as at_equal_cost,
    frontier as frontier,
)
from .interference import (
    interference as interference,
    summarize_interference as summarize_interference,
)
from .judge_agreement import judge_agreement as judge_agreement
from .judge_batches import (
    read_judge_batch as read_judge_batch,
    write_judge_batch as write_judge_batch,
)
from .judge_requests import Judge as Judge
from .judges import (
    LocalJudge as LocalJudge,
    OpenAIJudge as OpenAIJudge,
)
from .judging import (
    CostEstimate as CostEstimate,
    estimate_cost as estimate_cost,
    judge_answers as judge_answers,
)
from .learned import learned_vector as learned_vector
from .persistence import (
    persistence as persistence,
    summarize_persistence as summarize_persistence,
)
from .response import (
    choose_condition as choose_condition,
    choose_layer as choose_layer,
    steerability as steerability,
)
from .splits import validation_split as validation_split
from .strength import (
    Calibration as Calibration,
    calibrate as calibrate,
    compare_at_equal_divergence as compare_at_equal_divergence,
    relative_multiplier as relative_multiplier,
)
from .summary import summarize as summarize
from .sweep import sweep as sweep
from .text_quality import text_quality as text_quality
from .verdicts import verdicts as verdicts
