"""Engines: rows and a plan -> uint8 crops."""
