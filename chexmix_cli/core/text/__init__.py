"""Reports as text: sections, the text tokenizer, and sentence templates that write reports from labels."""
