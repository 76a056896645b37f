from .baselines import (
    baselines as baselines,
)
from .baselines import (
    few_shot_prompt as few_shot_prompt,
)
from .comparison import compare_at_equal_divergence as compare_at_equal_divergence
from .controls import (
    orthogonal_vectors as orthogonal_vectors,
)
from .controls import (
    random_vectors as random_vectors,
)
from .controls import (
    rescaled_to as rescaled_to,
)
from .controls import (
    shuffled_vectors as shuffled_vectors,
)
from .cost import (
    capability as capability,
)
from .cost import (
    divergence as divergence,
)
from .cost import (
    perplexity as perplexity,
)
from .dose_response import (
    dose_response as dose_response,
)
from .dose_response import (
    validation_split as validation_split,
)
from .finetuning import fine_tune as fine_tune
from .judge_requests import Judge as Judge
from .judges import (
    LocalJudge as LocalJudge,
)
from .judges import (
    OpenAIJudge as OpenAIJudge,
)
from .judging import (
    CostEstimate as CostEstimate,
)
from .judging import (
    estimate_cost as estimate_cost,
)
from .judging import (
    judge_answers as judge_answers,
)
from .side_effects import side_effects as side_effects
from .strength import (
    calibrate as calibrate,
)
from .strength import (
    relative_multiplier as relative_multiplier,
)
from .summary import (
    choose_condition as choose_condition,
)
from .summary import (
    choose_layer as choose_layer,
)
from .summary import (
    steerability as steerability,
)
from .summary import (
    summarize as summarize,
)
from .sweep import sweep as sweep
