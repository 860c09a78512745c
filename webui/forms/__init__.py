"""A recipe as a form: its fields, its text, its drafts, and what it would do. Imports neither gradio nor torch."""
