"""A seeded world of users, items and trends that answers served lists with events: docs/simulate.md."""
