"""What training reads: films, documents of codes and report ids, rows they are packed in."""
