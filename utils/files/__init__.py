"""Safe file access: atomic writes, YAML, JSON, downloads."""
