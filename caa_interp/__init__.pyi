from . import (
    analysis as analysis,
    behaviors as behaviors,
    doctor as doctor,
    errors as errors,
    evaluation as evaluation,
    explorer as explorer,
    interchange as interchange,
    models as models,
    paper as paper,
    plotting as plotting,
    prompts as prompts,
    report as report,
    statistics as statistics,
    steering as steering,
    study as study,
    tree as tree,
    vectors as vectors,
)
from .analysis.effect import effect_lens as effect_lens
from .analysis.lens import (
    logit_lens as logit_lens,
    steered_lens as steered_lens,
)
from .analysis.projection import project as project
from .analysis.reliability import reliability as reliability
from .analysis.similarity import cosine_similarity as cosine_similarity
from .analysis.tokens import token_similarity as token_similarity
from .behaviors.behavior import (
    Behavior as Behavior,
    load_behavior as load_behavior,
    load_behaviors as load_behaviors,
)
from .behaviors.pairs import ContrastPair as ContrastPair
from .behaviors.questions import (
    load_prose as load_prose,
    load_questions as load_questions,
)
from .behaviors.readers import read_pairs as read_pairs
from .errors import InputError as InputError
from .evaluation.baselines import baselines as baselines
from .evaluation.controls import (
    random_vectors as random_vectors,
    shuffled_vectors as shuffled_vectors,
)
from .evaluation.cost import (
    capability as capability,
    perplexity as perplexity,
)
from .evaluation.divergence import divergence as divergence
from .evaluation.dose_response import dose_response as dose_response
from .evaluation.judging import judge_answers as judge_answers
from .evaluation.response import (
    choose_layer as choose_layer,
    steerability as steerability,
)
from .evaluation.summary import summarize as summarize
from .evaluation.sweep import sweep as sweep
from .explorer.explore import explore as explore
from .interchange.exchange import (
    export_vector as export_vector,
    import_vector as import_vector,
)
from .models.loading import load_model as load_model
from .plotting.baselines import plot_baselines as plot_baselines
from .plotting.cost import plot_cost as plot_cost
from .plotting.dose_response import (
    plot_dose_response as plot_dose_response,
    plot_dose_responses as plot_dose_responses,
)
from .plotting.effect import plot_effect_lens as plot_effect_lens
from .plotting.export import save_figure as save_figure
from .plotting.lens import (
    plot_logit_lens as plot_logit_lens,
    plot_steered_lens as plot_steered_lens,
)
from .plotting.projection import plot_projection as plot_projection
from .plotting.reliability import plot_reliability as plot_reliability
from .plotting.scores import plot_scores as plot_scores
from .plotting.similarity import plot_cosine_similarity as plot_cosine_similarity
from .plotting.steerability import plot_steerability as plot_steerability
from .plotting.sweep import plot_sweep as plot_sweep
from .plotting.tokens import plot_token_similarity as plot_token_similarity
from .prompts.format import PromptFormat as PromptFormat
from .steering.context import steer as steer
from .steering.generation import generate as generate
from .steering.intervention import Intervention as Intervention
from .steering.operators import (
    Cap as Cap,
    ablate as ablate,
    add as add,
)
from .vectors.activations import (
    Activations as Activations,
    collect_activations as collect_activations,
)
from .vectors.extraction import extract_vector as extract_vector
from .vectors.vector import (
    SteeringVector as SteeringVector,
    match_norms as match_norms,
)

__version__: str
