"""Several daemons, each running its own site, and one coordinator that says where movable jobs should run."""
