"""Batteries and engines at a site's meter that take a set-point in kW."""
