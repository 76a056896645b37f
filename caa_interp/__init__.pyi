from . import (
    analysis as analysis,
)
from . import (
    behaviors as behaviors,
)
from . import (
    doctor as doctor,
)
from . import (
    errors as errors,
)
from . import (
    evaluation as evaluation,
)
from . import (
    explorer as explorer,
)
from . import (
    interchange as interchange,
)
from . import (
    models as models,
)
from . import (
    paper as paper,
)
from . import (
    plotting as plotting,
)
from . import (
    prompts as prompts,
)
from . import (
    report as report,
)
from . import (
    statistics as statistics,
)
from . import (
    steering as steering,
)
from . import (
    study as study,
)
from . import (
    tree as tree,
)
from . import (
    vectors as vectors,
)
from .analysis.lens import (
    logit_lens as logit_lens,
)
from .analysis.lens import (
    steered_lens as steered_lens,
)
from .analysis.projection import project as project
from .analysis.reliability import reliability as reliability
from .analysis.similarity import cosine_similarity as cosine_similarity
from .analysis.tokens import token_similarity as token_similarity
from .behaviors.behavior import (
    Behavior as Behavior,
)
from .behaviors.behavior import (
    load_behavior as load_behavior,
)
from .behaviors.behavior import (
    load_behaviors as load_behaviors,
)
from .behaviors.pairs import ContrastPair as ContrastPair
from .behaviors.questions import (
    load_prose as load_prose,
)
from .behaviors.questions import (
    load_questions as load_questions,
)
from .behaviors.readers import read_pairs as read_pairs
from .errors import (
    CAAError as CAAError,
)
from .errors import (
    InputError as InputError,
)
from .evaluation.baselines import baselines as baselines
from .evaluation.controls import (
    random_vectors as random_vectors,
)
from .evaluation.controls import (
    shuffled_vectors as shuffled_vectors,
)
from .evaluation.cost import (
    capability as capability,
)
from .evaluation.cost import (
    divergence as divergence,
)
from .evaluation.cost import (
    perplexity as perplexity,
)
from .evaluation.dose_response import dose_response as dose_response
from .evaluation.judging import judge_answers as judge_answers
from .evaluation.summary import (
    choose_layer as choose_layer,
)
from .evaluation.summary import (
    steerability as steerability,
)
from .evaluation.summary import (
    summarize as summarize,
)
from .evaluation.sweep import sweep as sweep
from .explorer.explore import explore as explore
from .interchange.exchange import (
    export_vector as export_vector,
)
from .interchange.exchange import (
    import_vector as import_vector,
)
from .models.loading import load_model as load_model
from .plotting.baselines import plot_baselines as plot_baselines
from .plotting.cost import plot_cost as plot_cost
from .plotting.dose_response import (
    plot_dose_response as plot_dose_response,
)
from .plotting.dose_response import (
    plot_dose_responses as plot_dose_responses,
)
from .plotting.export import save_figure as save_figure
from .plotting.lens import (
    plot_logit_lens as plot_logit_lens,
)
from .plotting.lens import (
    plot_steered_lens as plot_steered_lens,
)
from .plotting.projection import plot_projection as plot_projection
from .plotting.reliability import plot_reliability as plot_reliability
from .plotting.scores import plot_scores as plot_scores
from .plotting.similarity import plot_cosine_similarity as plot_cosine_similarity
from .plotting.sweep import plot_sweep as plot_sweep
from .plotting.tokens import plot_token_similarity as plot_token_similarity
from .prompts.format import PromptFormat as PromptFormat
from .report.page import write_report as write_report
from .steering.context import steer as steer
from .steering.generation import generate as generate
from .steering.operators import (
    Cap as Cap,
)
from .steering.operators import (
    ablate as ablate,
)
from .steering.operators import (
    add as add,
)
from .vectors.activations import (
    Activations as Activations,
)
from .vectors.activations import (
    collect_activations as collect_activations,
)
from .vectors.extraction import extract_vector as extract_vector
from .vectors.vector import (
    SteeringVector as SteeringVector,
)
from .vectors.vector import (
    match_norms as match_norms,
)
