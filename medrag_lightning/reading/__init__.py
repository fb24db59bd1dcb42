"""From examples to answers: prompts collated and steered, read, and mixed over candidates. Without Lightning, for deployers."""
