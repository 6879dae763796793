"""Reports: written from image codes, kept from phrases that no report may hold, and explained."""
