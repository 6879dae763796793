"""What is wrong with a manifest: its rows, its images, its reports."""
