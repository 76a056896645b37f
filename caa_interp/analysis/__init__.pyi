from .attribution import effect_attribution as effect_attribution
from .data_curve import data_curve as data_curve
from .decomposition import (
    SparseAutoencoder as SparseAutoencoder,
    decompose as decompose,
    load_sae as load_sae,
)
from .effect import effect_lens as effect_lens
from .influence import influence as influence
from .lens import (
    logit_lens as logit_lens,
    steered_lens as steered_lens,
)
from .monitor import monitor as monitor
from .prediction import predict_steerability as predict_steerability
from .projection import (
    project as project,
    project_vectors as project_vectors,
)
from .pulses import position_map as position_map
from .reliability import reliability as reliability
from .separation import separation as separation
from .similarity import cosine_similarity as cosine_similarity
from .tokens import token_similarity as token_similarity
from .transfer import transfer as transfer
from .weights import weight_alignment as weight_alignment
