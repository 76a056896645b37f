from .decomposition import (
    SparseAutoencoder as SparseAutoencoder,
)
from .decomposition import (
    decompose as decompose,
)
from .decomposition import (
    load_sae as load_sae,
)
from .lens import (
    logit_lens as logit_lens,
)
from .lens import (
    steered_lens as steered_lens,
)
from .projection import (
    project as project,
)
from .projection import (
    project_vectors as project_vectors,
)
from .reliability import reliability as reliability
from .similarity import cosine_similarity as cosine_similarity
from .tokens import token_similarity as token_similarity
from .transfer import transfer as transfer
from .weights import weight_alignment as weight_alignment
