"""Command-line options of the scripts, and how a script starts and ends."""
