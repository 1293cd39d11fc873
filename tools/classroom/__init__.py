"""The classroom: `python tools/classroom` says what it can do."""
