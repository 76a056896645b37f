from .baking import (
    bake as bake,
    orthogonalize as orthogonalize,
)
from .exchange import (
    export_vector as export_vector,
    import_vector as import_vector,
)
from .hub import (
    from_hub as from_hub,
    push_to_hub as push_to_hub,
    save_for_hub as save_for_hub,
)
from .published import import_activations as import_activations
from .published_results import import_results as import_results
