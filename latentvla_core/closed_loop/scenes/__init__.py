"""Which scenes there are: towns, routes, situations, and the sets that are frozen from them."""
