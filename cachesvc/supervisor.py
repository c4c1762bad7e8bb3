"""Supervisor: the processes of a service."""
