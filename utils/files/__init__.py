"""Reading and writing files safely: atomic writes, YAML, JSON, downloads."""
