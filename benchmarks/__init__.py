"""Side-by-side measurements of the pack and its peers; each script prints one JSON object a line."""
