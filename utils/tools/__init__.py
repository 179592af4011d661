"""Programs beside the three scripts: python -m utils.tools.NAME."""
