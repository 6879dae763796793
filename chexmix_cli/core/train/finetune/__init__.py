"""Fine-tuning for reports, classification and retrieval. `run.py` puts it together; the loop is pretraining's."""
