"""The options of the programs, and how a program starts and ends."""
