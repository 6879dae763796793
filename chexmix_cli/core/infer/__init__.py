"""Running trained models: images to codes and back, report decoding, embeddings, scores."""
