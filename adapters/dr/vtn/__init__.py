"""An OpenADR 3 server (VTN) of our own: the twin of the utility's, for tests and rehearsals."""
