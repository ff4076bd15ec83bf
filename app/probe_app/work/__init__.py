"""What runs in a process of its own (``python -m probe_app.work FOLDER``): the only part that loads models."""
