"""What a vector is made of and what it does inside a model: every module makes one kind of table.

Data comes as vectors or as activations of contrast pairs, and leaves as a tidy table; :mod:`caa_interp.plotting` draws
it. Modules do not import each other, but for :mod:`projection`, whose planes are fitted in :mod:`plane`. From its pairs
(:mod:`reliability`, :mod:`data_curve`, :mod:`influence`) and directions (:mod:`similarity`, :mod:`projection`) over
readouts (:mod:`lens`, :mod:`effect`, :mod:`tokens`, :mod:`monitor`) to the parts and positions it acts through
(:mod:`attribution`, :mod:`pulses`) and the weights it meets (:mod:`weights`, :mod:`decomposition`). Begin reading at
:mod:`caa_interp.analysis.lens`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
