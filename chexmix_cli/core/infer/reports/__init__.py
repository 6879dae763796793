"""Reports: written from image codes, guarded against comparisons, and explained."""
