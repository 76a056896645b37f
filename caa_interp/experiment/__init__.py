"""A whole study from one config file: shards of work, kept as they are finished, joined to tables and a page."""
