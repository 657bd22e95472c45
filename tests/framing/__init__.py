"""Hostile requests through the gateway to real servers: what these serve was identified and counted."""
