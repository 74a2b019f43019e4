"""Learning and its formats: ID tables, features, recall models, item index, bundle, delta and registry."""
