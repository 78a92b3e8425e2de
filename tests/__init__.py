"""A package, so that the helpers in `tests.support` import the same way from every test."""
