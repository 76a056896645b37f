"""Does it steer, and at what price: scores of held-out pairs, costs, controls, baselines and judged answers.

Vectors or interventions and held-out pairs go in; a table with one row per item and condition comes out
(:mod:`sweep`, :mod:`cost`, :mod:`baselines`, :mod:`judging`). One summary gives it means with intervals
(:mod:`summary`), and items have slopes (:mod:`response`). Beside the vectors of :mod:`controls` a vector has a verdict
(:mod:`verdicts`). :mod:`dose_response` puts it all together.
Begin reading at :mod:`caa_interp.evaluation.sweep`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
