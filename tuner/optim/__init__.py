"""Optimizers, learning-rate schedules, EMA and the loss scaler."""
