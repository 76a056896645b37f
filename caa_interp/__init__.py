"""Interpretability for Contrastive Activation Addition (Rimsky et al., ACL 2024).

Names are imported when they are first used, so that ``import caa_interp`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caa_interp.activations import Activations, collect_activations
    from caa_interp.analysis.decomposition import SparseAutoencoder, decompose, load_sae
    from caa_interp.analysis.lens import logit_lens, steered_lens
    from caa_interp.analysis.projection import project, project_vectors
    from caa_interp.analysis.reliability import reliability
    from caa_interp.analysis.similarity import cosine_similarity
    from caa_interp.analysis.tokens import token_similarity
    from caa_interp.analysis.transfer import transfer
    from caa_interp.analysis.weights import weight_alignment
    from caa_interp.baking import bake, orthogonalize
    from caa_interp.behaviors import Behavior, ContrastPair, load_behavior, load_behaviors
    from caa_interp.doctor import Check, environment_report, self_test
    from caa_interp.errors import CAAError, InputError, MissingDependencyError, ModelError, VectorMismatchError
    from caa_interp.estimators import logistic_probe, mean_difference, principal_difference, whitened_mean_difference
    from caa_interp.evaluation.baselines import baselines, few_shot_prompt, summarize_baselines
    from caa_interp.evaluation.comparison import compare_at_equal_divergence
    from caa_interp.evaluation.controls import orthogonal_vectors, random_vectors, rescaled_to, shuffled_vectors
    from caa_interp.evaluation.cost import capability, divergence, perplexity
    from caa_interp.evaluation.dose_response import dose_response, validation_split
    from caa_interp.evaluation.finetuning import fine_tune
    from caa_interp.evaluation.judge_requests import Judge
    from caa_interp.evaluation.judges import LocalJudge, OpenAIJudge
    from caa_interp.evaluation.judging import CostEstimate, estimate_cost, judge_answers
    from caa_interp.evaluation.scores import summarize_scores
    from caa_interp.evaluation.side_effects import side_effects
    from caa_interp.evaluation.strength import calibrate, relative_multiplier
    from caa_interp.evaluation.summary import choose_condition, choose_layer, steerability, summarize, summarize_cost
    from caa_interp.evaluation.sweep import sweep
    from caa_interp.experiment.config import ExperimentConfig
    from caa_interp.experiment.executors import RayWorkers
    from caa_interp.experiment.run import run_experiment
    from caa_interp.exploration import explore
    from caa_interp.extraction import extract_vector, vector_from_activations
    from caa_interp.generation import generate
    from caa_interp.interchange.exchange import export_vector, import_vector
    from caa_interp.interchange.hub import from_hub, push_to_hub, save_for_hub
    from caa_interp.interchange.published_activations import import_activations
    from caa_interp.interchange.published_results import import_results
    from caa_interp.models import load_model
    from caa_interp.operators import AddIf, Cap, ProjectTo, ablate, add, add_keeping_norm
    from caa_interp.plotting.baselines import plot_baselines
    from caa_interp.plotting.cost import plot_cost
    from caa_interp.plotting.decomposition import plot_decomposition
    from caa_interp.plotting.dose_response import plot_dose_response, plot_dose_responses
    from caa_interp.plotting.export import save_figure
    from caa_interp.plotting.lens import plot_logit_lens, plot_steered_lens
    from caa_interp.plotting.projection import plot_projection, plot_vector_map
    from caa_interp.plotting.reliability import plot_reliability
    from caa_interp.plotting.scores import plot_scores
    from caa_interp.plotting.side_effects import plot_side_effects
    from caa_interp.plotting.similarity import plot_cosine_similarity
    from caa_interp.plotting.sweep import plot_sweep
    from caa_interp.plotting.tokens import plot_token_similarity
    from caa_interp.plotting.transfer import plot_transfer
    from caa_interp.plotting.weights import plot_weight_alignment
    from caa_interp.questions import load_prose, load_questions
    from caa_interp.readers import ReadResult, read_pairs
    from caa_interp.report import write_report
    from caa_interp.reproduction import reproduce
    from caa_interp.steering import steer
    from caa_interp.vectors import SteeringVector, match_norms

_MODULES = {
    "Activations": "activations",
    "AddIf": "operators",
    "Behavior": "behaviors",
    "CAAError": "errors",
    "Cap": "operators",
    "Check": "doctor",
    "ContrastPair": "behaviors",
    "CostEstimate": "evaluation.judging",
    "ExperimentConfig": "experiment.config",
    "InputError": "errors",
    "Judge": "evaluation.judge_requests",
    "LocalJudge": "evaluation.judges",
    "MissingDependencyError": "errors",
    "ModelError": "errors",
    "OpenAIJudge": "evaluation.judges",
    "ProjectTo": "operators",
    "RayWorkers": "experiment.executors",
    "ReadResult": "readers",
    "SparseAutoencoder": "analysis.decomposition",
    "SteeringVector": "vectors",
    "VectorMismatchError": "errors",
    "ablate": "operators",
    "add": "operators",
    "add_keeping_norm": "operators",
    "bake": "baking",
    "baselines": "evaluation.baselines",
    "calibrate": "evaluation.strength",
    "capability": "evaluation.cost",
    "choose_condition": "evaluation.summary",
    "choose_layer": "evaluation.summary",
    "collect_activations": "activations",
    "compare_at_equal_divergence": "evaluation.comparison",
    "cosine_similarity": "analysis.similarity",
    "decompose": "analysis.decomposition",
    "divergence": "evaluation.cost",
    "dose_response": "evaluation.dose_response",
    "environment_report": "doctor",
    "estimate_cost": "evaluation.judging",
    "explore": "exploration",
    "export_vector": "interchange.exchange",
    "extract_vector": "extraction",
    "few_shot_prompt": "evaluation.baselines",
    "fine_tune": "evaluation.finetuning",
    "from_hub": "interchange.hub",
    "generate": "generation",
    "import_activations": "interchange.published_activations",
    "import_results": "interchange.published_results",
    "import_vector": "interchange.exchange",
    "judge_answers": "evaluation.judging",
    "load_behavior": "behaviors",
    "load_behaviors": "behaviors",
    "load_model": "models",
    "load_prose": "questions",
    "load_questions": "questions",
    "load_sae": "analysis.decomposition",
    "logistic_probe": "estimators",
    "logit_lens": "analysis.lens",
    "match_norms": "vectors",
    "mean_difference": "estimators",
    "orthogonal_vectors": "evaluation.controls",
    "orthogonalize": "baking",
    "perplexity": "evaluation.cost",
    "plot_baselines": "plotting.baselines",
    "plot_cosine_similarity": "plotting.similarity",
    "plot_cost": "plotting.cost",
    "plot_decomposition": "plotting.decomposition",
    "plot_dose_response": "plotting.dose_response",
    "plot_dose_responses": "plotting.dose_response",
    "plot_logit_lens": "plotting.lens",
    "plot_projection": "plotting.projection",
    "plot_reliability": "plotting.reliability",
    "plot_scores": "plotting.scores",
    "plot_side_effects": "plotting.side_effects",
    "plot_steered_lens": "plotting.lens",
    "plot_sweep": "plotting.sweep",
    "plot_token_similarity": "plotting.tokens",
    "plot_transfer": "plotting.transfer",
    "plot_vector_map": "plotting.projection",
    "plot_weight_alignment": "plotting.weights",
    "principal_difference": "estimators",
    "project": "analysis.projection",
    "project_vectors": "analysis.projection",
    "push_to_hub": "interchange.hub",
    "random_vectors": "evaluation.controls",
    "read_pairs": "readers",
    "relative_multiplier": "evaluation.strength",
    "reliability": "analysis.reliability",
    "reproduce": "reproduction",
    "rescaled_to": "evaluation.controls",
    "run_experiment": "experiment.run",
    "save_figure": "plotting.export",
    "save_for_hub": "interchange.hub",
    "self_test": "doctor",
    "shuffled_vectors": "evaluation.controls",
    "side_effects": "evaluation.side_effects",
    "steer": "steering",
    "steerability": "evaluation.summary",
    "steered_lens": "analysis.lens",
    "summarize": "evaluation.summary",
    "summarize_baselines": "evaluation.baselines",
    "summarize_cost": "evaluation.summary",
    "summarize_scores": "evaluation.scores",
    "sweep": "evaluation.sweep",
    "token_similarity": "analysis.tokens",
    "transfer": "analysis.transfer",
    "validation_split": "evaluation.dose_response",
    "vector_from_activations": "extraction",
    "weight_alignment": "analysis.weights",
    "whitened_mean_difference": "estimators",
    "write_report": "report",
}

__all__ = [
    "Activations",
    "AddIf",
    "Behavior",
    "CAAError",
    "Cap",
    "Check",
    "ContrastPair",
    "CostEstimate",
    "ExperimentConfig",
    "InputError",
    "Judge",
    "LocalJudge",
    "MissingDependencyError",
    "ModelError",
    "OpenAIJudge",
    "ProjectTo",
    "RayWorkers",
    "ReadResult",
    "SparseAutoencoder",
    "SteeringVector",
    "VectorMismatchError",
    "ablate",
    "add",
    "add_keeping_norm",
    "bake",
    "baselines",
    "calibrate",
    "capability",
    "choose_condition",
    "choose_layer",
    "collect_activations",
    "compare_at_equal_divergence",
    "cosine_similarity",
    "decompose",
    "divergence",
    "dose_response",
    "environment_report",
    "estimate_cost",
    "explore",
    "export_vector",
    "extract_vector",
    "few_shot_prompt",
    "fine_tune",
    "from_hub",
    "generate",
    "import_activations",
    "import_results",
    "import_vector",
    "judge_answers",
    "load_behavior",
    "load_behaviors",
    "load_model",
    "load_prose",
    "load_questions",
    "load_sae",
    "logistic_probe",
    "logit_lens",
    "match_norms",
    "mean_difference",
    "orthogonal_vectors",
    "orthogonalize",
    "perplexity",
    "plot_baselines",
    "plot_cosine_similarity",
    "plot_cost",
    "plot_decomposition",
    "plot_dose_response",
    "plot_dose_responses",
    "plot_logit_lens",
    "plot_projection",
    "plot_reliability",
    "plot_scores",
    "plot_side_effects",
    "plot_steered_lens",
    "plot_sweep",
    "plot_token_similarity",
    "plot_transfer",
    "plot_vector_map",
    "plot_weight_alignment",
    "principal_difference",
    "project",
    "project_vectors",
    "push_to_hub",
    "random_vectors",
    "read_pairs",
    "relative_multiplier",
    "reliability",
    "reproduce",
    "rescaled_to",
    "run_experiment",
    "save_figure",
    "save_for_hub",
    "self_test",
    "shuffled_vectors",
    "side_effects",
    "steer",
    "steerability",
    "steered_lens",
    "summarize",
    "summarize_baselines",
    "summarize_cost",
    "summarize_scores",
    "sweep",
    "token_similarity",
    "transfer",
    "validation_split",
    "vector_from_activations",
    "weight_alignment",
    "whitened_mean_difference",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'caa_interp' has no attribute {name!r}")
    value = getattr(import_module(f"caa_interp.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
