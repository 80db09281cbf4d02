"""From printed scores to a labelled audio corpus: scores, compositions, arrangement, rendering."""
