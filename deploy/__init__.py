"""One machine or many: configuration, wiring, CLI, embedded broker and store, demo."""
