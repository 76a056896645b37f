"""A whole study from one config file: shards of work, kept as they are finished, put together to tables and a page."""
