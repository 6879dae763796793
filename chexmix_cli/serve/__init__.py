"""Programs that stay: they take studies from others and give results back, through the library as the commands do."""
