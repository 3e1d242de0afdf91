"""Tasks: the paper's input templates and the seqio registrations of each dataset."""
