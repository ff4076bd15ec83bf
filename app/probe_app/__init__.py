"""The dashboard's room: reads reports, draws them, touches heads. Registered under the entry-point group probe.commands."""
