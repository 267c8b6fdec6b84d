"""Fuzzing: any bytes give readings or one named error, in bounded time and memory."""
