"""A second daemon that stands by: who leads, how it has the same books, and what it says meanwhile."""
