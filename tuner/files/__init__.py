"""Tools on saved files: merged, taken out of a model, made smaller, checked and mended; nothing here trains."""
