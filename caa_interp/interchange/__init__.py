"""Files of other tools, in and out: one module a format, and one call over all of them (``exchange``)."""
