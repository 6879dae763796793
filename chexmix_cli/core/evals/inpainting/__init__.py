"""``evaluate inpainting``: films under many masks, their scores, the result."""
