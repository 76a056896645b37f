from .attribution import plot_effect_attribution as plot_effect_attribution
from .audit import plot_safety_audit as plot_safety_audit
from .baselines import plot_baselines as plot_baselines
from .cost import plot_cost as plot_cost
from .data_curve import plot_data_curve as plot_data_curve
from .decomposition import plot_decomposition as plot_decomposition
from .dose_response import (
    plot_dose_response as plot_dose_response,
    plot_dose_responses as plot_dose_responses,
)
from .effect import plot_effect_lens as plot_effect_lens
from .export import save_figure as save_figure
from .frontier import plot_frontier as plot_frontier
from .influence import plot_influence as plot_influence
from .interference import plot_interference as plot_interference
from .layer_profile import plot_layer_profile as plot_layer_profile
from .lens import (
    plot_logit_lens as plot_logit_lens,
    plot_steered_lens as plot_steered_lens,
)
from .monitor import plot_monitor as plot_monitor
from .persistence import plot_persistence as plot_persistence
from .prediction import plot_predicted_steerability as plot_predicted_steerability
from .projection import (
    plot_projection as plot_projection,
    plot_vector_map as plot_vector_map,
)
from .pulses import plot_position_map as plot_position_map
from .reliability import plot_reliability as plot_reliability
from .reproduction import (
    plot_layer_sweep as plot_layer_sweep,
    plot_layer_sweeps as plot_layer_sweeps,
    plot_reproduction as plot_reproduction,
)
from .scores import plot_scores as plot_scores
from .separation import plot_separation as plot_separation
from .side_effects import plot_side_effects as plot_side_effects
from .similarity import plot_cosine_similarity as plot_cosine_similarity
from .steerability import plot_steerability as plot_steerability
from .sweep import plot_sweep as plot_sweep
from .tokens import plot_token_similarity as plot_token_similarity
from .transfer import plot_transfer as plot_transfer
from .weights import plot_weight_alignment as plot_weight_alignment
