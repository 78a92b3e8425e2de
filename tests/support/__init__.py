"""What several test modules share and what is no test itself."""
