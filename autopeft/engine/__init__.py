"""Train hybrids on one loaded backbone; one Evaluation a candidate."""
