"""The dashboard: reads reports, draws them, and needs no model to do so."""
